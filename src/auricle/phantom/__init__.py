"""Virtual patients: a procedural cardiac CT phantom, free of anybody's data."""

from auricle.phantom.checks import check, contact_limits
from auricle.phantom.patient import Patient, draw_patient
from auricle.phantom.scan import render, virtual_patient

__all__ = ["Patient", "check", "contact_limits", "draw_patient", "render", "virtual_patient"]
