"""The eight heart structures: the only table of ids, names, colors, codes and plausible volumes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Structure:
    """One labeled structure of the heart."""

    id: int
    """Value in a label map (ImageCAS / STACOM-2025 numbering)."""
    key: str
    """Short name used in tables, files and flags."""
    name: str
    """English name, as a Slicer color table shows it."""
    color: tuple[int, int, int]
    """Display color, RGB 0..255."""
    snomed: str
    """SNOMED CT concept id."""
    volume_range_ml: tuple[float, float]
    """Volumes outside this range are implausible in an adult whose structure is wholly in view, pathology included.

    The least of AO and PA is that of a labeled stub, since labelings end on the great vessels where they like."""


BACKGROUND = 0

STRUCTURES: tuple[Structure, ...] = (
    Structure(1, "MYO", "myocardium", (176, 122, 84), "49848007", (50.0, 300.0)),
    Structure(2, "LA", "left atrium", (240, 190, 70), "82471001", (20.0, 240.0)),
    Structure(3, "LV", "left ventricle", (214, 76, 76), "87878005", (20.0, 320.0)),
    Structure(4, "RA", "right atrium", (88, 130, 214), "73829009", (30.0, 250.0)),
    Structure(5, "RV", "right ventricle", (72, 188, 200), "53085002", (25.0, 340.0)),
    Structure(6, "AO", "aorta", (232, 120, 190), "15825003", (15.0, 500.0)),
    Structure(7, "PA", "pulmonary artery", (140, 110, 220), "81040000", (5.0, 200.0)),
    Structure(8, "LAA", "left atrial appendage", (110, 200, 100), "33626005", (1.0, 25.0)),
)
KEYS: tuple[str, ...] = tuple(s.key for s in STRUCTURES)
HEART: tuple[str, ...] = ("MYO", "LA", "LV", "RA", "RV")
"""Myocardium and chambers: what is always in view of a heart, unlike the great vessels and the appendage."""
LABEL_COUNT = len(STRUCTURES) + 1
"""Labels in a map, background included."""

ID: dict[str, int] = {s.key: s.id for s in STRUCTURES}
"""Structure key to label value."""

TOUCHING: tuple[tuple[str, str], ...] = (
    ("LA", "LV"), ("LV", "AO"), ("RA", "RV"), ("RV", "PA"), ("LA", "LAA"),
    ("LV", "MYO"), ("RV", "MYO"), ("LA", "MYO"), ("AO", "MYO"),
)  # fmt: skip
"""Pairs of structures whose surfaces meet in a normal heart; every structure also meets the background."""
