"""Everything that is drawn about one patient's scan: kernel, dose, motion, metal and the reconstruction's field of view."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from auricle.core.errors import InputError

METALS = ("pacemaker lead", "defibrillator lead", "mechanical valve", "bioprosthetic valve", "sternal wires", "coronary stent")
VALVES = ("aortic", "mitral")
CORONARIES = ("LAD", "LCX", "RCA")

STREAMS = (
    "anatomy",
    "appendage",
    "fields",
    "contrast",
    "image",
    "noise",
    "metal",
    "pathology",
    "body",
    "step",
    "calcium",
    "beam",
)
"""Independent sources of randomness of one patient: forcing a choice in one leaves the others as they were."""


def stream(seed: int, name: str) -> np.random.Generator:
    """The random generator `name` (one of `STREAMS`) of patient `seed`."""
    return np.random.default_rng([seed, STREAMS.index(name)])


def pick(rng: np.random.Generator, shares: Mapping[Any, float]) -> Any:
    """One of the keys, drawn by its share; the shares sum to one."""
    return list(shares)[int(rng.choice(len(shares), p=list(shares.values())))]


def wanted_of(
    name: str, wanted: bool | Sequence[str] | None, drawn: tuple[str, ...], some: tuple[str, ...], choices: Sequence[str]
) -> tuple[str, ...]:
    """`drawn` unless the caller wants otherwise: True for `some`, False for none, or the named ones of `choices`."""
    if wanted is None:
        return drawn
    if isinstance(wanted, bool):
        return some if wanted else ()
    unknown = [w for w in wanted if w not in choices]
    if unknown:
        raise InputError(f"{name} {unknown[0]!r} is not known; choose from {', '.join(choices)}")
    return tuple(c for c in choices if c in wanted)


@dataclass(frozen=True)
class Kernel:
    """A way to reconstruct, with the noise it leaves in the aorta at full dose."""

    share: float
    noise_sd_hu: float
    nps_peak_per_mm: tuple[float, float]
    """Range of the in-plane frequency at which the noise power spectrum peaks."""
    width_mm: tuple[float, float]
    """Range of the full width at half maximum of the in-plane point spread."""


KERNELS: Mapping[str, Kernel] = MappingProxyType({
    "filtered back-projection": Kernel(0.35, 37.0, (0.23, 0.27), (0.75, 1.0)),
    "hybrid iterative": Kernel(0.50, 18.0, (0.13, 0.18), (0.85, 1.2)),
    "model-based iterative": Kernel(0.15, 11.0, (0.075, 0.085), (0.7, 0.95)),
})  # fmt: skip
"""Noise SD in the aorta and NPS peaks are published; the shares and the point spread are assumptions."""
SLICES_MM = {0.6: 0.45, 0.75: 0.30, 1.0: 0.15, 1.5: 0.10}
"""Slice thickness and its share, an assumption."""


@dataclass(frozen=True)
class Scanner:
    """How one patient was scanned. Lengths in mm, HU."""

    kernel: str
    dose: float
    """Tube output relative to a routine scan: noise grows with its inverse square root."""
    noise_sd_hu: float
    """Standard deviation of the noise in the aorta, in a native voxel of 0.5 x 0.5 x 0.75 mm."""
    nps_peak_per_mm: float
    width_mm: float
    """Full width at half maximum of the point spread in plane."""
    slice_mm: float
    """Slice thickness: full width of the point spread, and of the noise's correlation, along z."""
    motion_mm: float
    """Displacement of the heart during the acquisition of one slice: blur."""
    step_mm: float
    """Displacement of the heart between two heartbeats: steps at the borders of their slabs; zero for most."""
    step_period_mm: float
    """Height of the slab that one heartbeat covers."""
    step_phase: float
    """Where the first slab starts, 0..1 of the period."""
    reconstruction_mm: float | None
    """Diameter of the circle that was reconstructed around the heart, or None where it exceeds every field of view."""
    padding_hu: int
    """Value outside the reconstruction circle."""
    metal: tuple[str, ...]
    valve: str
    """The valve that a mechanical prosthesis replaces; a bioprosthesis sits in the aortic one."""
    calcified: tuple[str, ...]
    """Coronary arteries with calcified plaques."""
    stented: str
    """The coronary artery that a stent would be in."""
    valve_calcium: bool
    """Calcified aortic valve, where it is not replaced."""

    @property
    def replaced(self) -> tuple[str, ...]:
        """Valves with a prosthesis; beside a bioprosthesis a mechanical one sits in the mitral valve."""
        biological = "bioprosthetic valve" in self.metal
        mechanical = "mechanical valve" in self.metal and ("mitral" if biological else self.valve)
        return tuple(v for v in VALVES if v == mechanical or (biological and v == "aortic"))


METAL_SHARE = 0.15
"""Share of patients with metal, an assumption."""


def _metal(rng: np.random.Generator, wanted: bool | Sequence[str] | None) -> tuple[tuple[str, ...], str, str]:
    """Metal, the valve and the artery it would be in."""
    present = rng.random() < METAL_SHARE
    device = str(pick(rng, {"pacemaker lead": 0.22, "defibrillator lead": 0.14, "": 0.64}))
    valve = str(pick(rng, {"mechanical valve": 0.15, "bioprosthetic valve": 0.20, "": 0.65}))
    wires, stent = rng.random() < (0.9 if valve else 0.35), rng.random() < 0.30
    drawn = {device, valve, "sternal wires" if wires else "", "coronary stent" if stent else ""}
    some = tuple(m for m in METALS if m in drawn) or (METALS[int(rng.integers(len(METALS)))],)
    where, artery = VALVES[int(rng.random() < 0.4)], CORONARIES[int(rng.integers(3))]
    return wanted_of("metal", wanted, some if present else (), some, METALS), where, artery


def draw_scanner(seed: int, *, metal: bool | Sequence[str] | None = None) -> Scanner:
    """Draw the scan of patient `seed`; `metal` replaces what would have been drawn, see `draw_patient`."""
    rng = stream(seed, "image")
    kernel = str(pick(rng, {k: v.share for k, v in KERNELS.items()}))
    dose = float(np.clip(rng.lognormal(0, 0.45), 0.35, 2.8))
    low, high = KERNELS[kernel].nps_peak_per_mm
    peak = float(rng.uniform(low, high))
    moving, stepping, cut, ungated = rng.random(4) < (0.5, 0.12, 0.25, 0.15)
    motion, step, period, phase = abs(rng.normal(0, 1.5)), rng.uniform(1.5, 5), rng.uniform(25, 40), rng.random()
    diameter, padding = rng.uniform(185, 250), int(pick(rng, {-1024: 0.6, -2048: 0.4}))
    calcified = tuple(c for c, u in zip(CORONARIES, rng.random(3), strict=True) if u < 0.18)
    valve_calcium = rng.random() < 0.10
    width, thickness = rng.uniform(*KERNELS[kernel].width_mm), float(pick(rng, SLICES_MM))
    if ungated:
        moving, motion = True, rng.uniform(3, 6)  # a chest scan that does not wait for the heart
    implants, valve, artery = _metal(stream(seed, "metal"), metal)
    return Scanner(
        kernel=kernel, dose=dose, noise_sd_hu=KERNELS[kernel].noise_sd_hu / dose**0.5, nps_peak_per_mm=peak,
        width_mm=float(width), slice_mm=thickness, motion_mm=float(motion) * bool(moving),
        step_mm=float(step) * bool(stepping), step_period_mm=float(period), step_phase=float(phase),
        reconstruction_mm=float(diameter) if cut else None, padding_hu=padding,
        metal=implants, valve=valve, calcified=calcified, stented=artery, valve_calcium=bool(valve_calcium),
    )  # fmt: skip


def scanner_attributes(s: Scanner) -> dict[str, Any]:
    """The scan as flat JSON values; what it does not have is None, zero or empty."""
    return {
        "kernel": s.kernel, "dose": round(s.dose, 3), "native_noise_sd_hu": round(s.noise_sd_hu, 2),
        "nps_peak_per_mm": s.nps_peak_per_mm, "point_spread_mm": round(s.width_mm, 3), "slice_mm": s.slice_mm,
        "motion_mm": round(s.motion_mm, 2), "step_mm": round(s.step_mm, 2), "step_period_mm": round(s.step_period_mm, 2),
        "step_phase": round(s.step_phase, 3), "padding_hu": s.padding_hu, "metal": list(s.metal), "replaced_valves": list(s.replaced),
        "reconstruction_mm": None if s.reconstruction_mm is None else round(s.reconstruction_mm, 1),
        "stented_artery": s.stented if "coronary stent" in s.metal else None, "calcified_arteries": list(s.calcified),
        "calcified_valve": s.valve_calcium and "aortic" not in s.replaced,
    }  # fmt: skip
