"""Virtual patients: a procedural cardiac CT phantom, free of anybody's data."""

from auricle.phantom.checks import BARE_MM2, bare_ventricle, check, contact_limits
from auricle.phantom.patient import CONTRASTS, Patient, draw_patient
from auricle.phantom.scan import render, virtual_patient

__all__ = ["BARE_MM2", "CONTRASTS", "Patient", "bare_ventricle", "check", "contact_limits", "draw_patient", "render", "virtual_patient"]
