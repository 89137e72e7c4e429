"""What the numbers of an assessment are called, what they mean, and what they should be."""

from dataclasses import dataclass
from typing import Literal

from auricle.core.anatomy import KEYS, STRUCTURES
from auricle.metrics.texture import TISSUES
from auricle.report import words


@dataclass(frozen=True)
class Measure:
    """One number of ``assessment.json``: what it is called, what it means, and what it should be."""

    name: str
    meaning: str = ""
    low: float | None = None
    """Goal: at least this."""
    high: float | None = None
    """Goal: at most this."""
    digits: int = 3
    unit: Literal["", "%", "HU", "dB"] = ""

    @property
    def goal(self) -> str:
        """The goal in words; empty where there is none."""
        low, high = ("" if v is None else f"{100 * v:g} %" if self.unit == "%" else f"{v:g}" for v in (self.low, self.high))
        return f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}" if high else ""

    def reached(self, value: float) -> bool:
        """Whether `value` meets the goal; true without one."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def text(self, value: float | None) -> str:
        """`value` with its unit; digits are added where rounding would hide that a goal is missed."""
        if value is None:
            return words.NONE
        digits, shift = self.digits, 2 if self.unit == "%" else 0
        while digits < 9 and self.reached(round(value, digits + shift)) != self.reached(value):
            digits += 1
        number = words.number(value * 10**shift, digits)
        return f"{number} {self.unit}" if self.unit else number

    def verdict(self, value: float | None) -> str:
        """``reached`` or ``not reached``; ``n/a`` without a number, empty without a goal."""
        return "" if not self.goal else words.NONE if value is None else "reached" if self.reached(value) else "**not reached**"


LABELS = {
    "label_dice_mean": Measure("label Dice, mean", "overlap of labels before and after; 1 is perfect", low=0.98),
    **{f"label_dice_{s.key}": Measure(f"label Dice, {s.name} ({s.key})", low=0.95 if s.key == "LAA" else None) for s in STRUCTURES},
    "impossible_boundary_share": Measure("impossible boundary voxels", "border voxels of a structure that is not near", digits=3, unit="%"),
    "round_trip_speck_share": Measure("specks", "labeled voxels in crumbs below 0.1 mL", digits=3, unit="%"),
}  # fmt: skip
IMAGES = {
    "image_rmse_over_noise": Measure("RMSE over noise", "error in units of the scan's own noise: at 1 only noise is lost", high=1.2),
    "image_rmse_hu": Measure("RMSE", "error of the CT, everywhere", digits=1, unit="HU"),
    "image_rmse_heart_hu": Measure("RMSE in the heart", "error of the CT, inside the structures", digits=1, unit="HU"),
    "noise_sd_hu": Measure("noise", "SD in the blood of the test cases", digits=1, unit="HU"),
    "image_psnr_db": Measure("PSNR", "peak signal over error; higher is better", digits=1, unit="dB"),
    "image_ssim": Measure("SSIM", "local similarity; 1 is perfect"),
}
GATE = {
    "gate_pass_share": Measure("candidates without fault before repair", "anatomy passes before any repair", low=0.9, digits=1, unit="%"),
    "gate_pass_share_repaired": Measure("without fault after repair", "anatomy passes once small faults are mended", digits=1, unit="%"),
    "gate_kept_share": Measure("without fault and no copy", "what is good to use", digits=1, unit="%"),
    "complete_share": Measure("kept pairs with all eight structures", "the others lack one", digits=1, unit="%"),
    "speck_share": Measure("specks in kept pairs", "labeled voxels in crumbs below 0.1 mL", high=0.0002, unit="%"),
    "speck_share_before_repair": Measure("the same before repair", unit="%"),
}
VOLUMES = {
    f"volume_{what}_ratio_{k}": Measure(f"{name} of {k}'s volume, generated over training", low=low, high=high, digits=2)
    for what, name, low, high in (("mean", "mean", 0.9, 1.1), ("sd", "SD", 0.75, 1.25)) for k in KEYS
}  # fmt: skip
CORRELATIONS = {
    "volume_r": Measure("r of volumes, mean of structures", low=0.9),
    **{f"volume_r_{s.key}": Measure(f"r of the {s.name}'s volume ({s.key})", low=0.9) for s in STRUCTURES},
    "location_r": Measure("r of the location", low=0.9),
}
DECODED = {k.replace("_r", "_r_decoded"): Measure(m.name) for k, m in CORRELATIONS.items()}
"""The same before pairs are warped to the volumes and the location asked for."""
OBEYED = {
    "contrast_obeyed_share": Measure("contrast timing obeyed", "HU of both ventricles in the timing's range", low=0.95, digits=1, unit="%"),
    "contrast_retimed_share": Measure("put in after decoding", "the network had drawn another timing", digits=1, unit="%"),
    "metal_obeyed_share": Measure("metal obeyed", "metal seen where asked for, and only there", low=0.95, digits=1, unit="%"),
    "metal_sensitivity": Measure("metal seen where asked for", "sensitivity", digits=1, unit="%"),
    "metal_specificity": Measure("no metal seen where none was asked for", "specificity", digits=1, unit="%"),
    "metal_amount_ratio": Measure("amount of metal over that of training cases", "medians of those with metal", digits=2),
}
TEXTURE = {
    **{f"texture_sd_ratio_{t}": Measure(f"texture SD ratio in {t}", low=0.9, high=1.1) for t in TISSUES},
    **{f"texture_sd_ratio_{stage}_{t}": Measure("") for stage in ("decoded", "real") for t in TISSUES},
    **{f"texture_peak_ratio_{t}": Measure(f"ratio of the NPS peak's frequency in {t}", low=0.85, high=1.15) for t in TISSUES},
    **{f"hu_distance{of}_{t}": Measure("", digits=1) for of in ("", "_real") for t in TISSUES},
}
DISTRIBUTION = {
    **{f"kernel_distance{part}": Measure("kernel distance", "between all images at once; 0 is none", digits=4)
       for part in ("", "_low", "_high", "_floor")},
    **{f"frechet_distance{part}": Measure("Fréchet distance", "the same, of means and spreads", digits=2) for part in ("", "_floor")},
    **{f"ms_ssim_{part}": Measure("MS-SSIM between cases", "similarity within a set; lower is more varied") for part in ("generated", "real")},
}  # fmt: skip
MEMORY = {
    "copy_share": Measure("copies among candidates", "nearer to a training case than unseen cases come", high=0.02, digits=1, unit="%"),
    "audit_recall_planted": Measure("planted copies found", "the audit's recall on disguised training cases", low=0.95, digits=1, unit="%"),
    "audit_recall_planted_generated": Measure(
        "the same, once they are decoded and restored", "as generated pairs are", low=0.95, digits=1, unit="%"),
    "audit_false_alarm_share": Measure("false alarms", "test cases that the audit calls copies", high=0.01, digits=1, unit="%"),
    "copy_threshold": Measure("threshold", "score above which a pair is a copy"),
    "nearest_donor_share": Measure("pairs nearest to the case that gave their conditions", "of kept pairs", digits=1, unit="%"),
    "nearest_donor_chance": Measure("the same by chance", "one of all training cases", digits=1, unit="%"),
}
MEASURES = LABELS | IMAGES | GATE | VOLUMES | CORRELATIONS | DECODED | OBEYED | TEXTURE | DISTRIBUTION | MEMORY
"""Every number of ``assessment.json`` that is judged or shown with a unit, by its key."""
