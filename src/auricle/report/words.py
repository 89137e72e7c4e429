"""The report's sentences and formatted numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auricle.study.results import BASELINE, CONTROL, Contender, Setting
from auricle.study.statistics import Difference

NONE = "n/a"
NAMES = {
    "baseline": "Baseline", "medical-diffusion": "Medical diffusion", "ours": "Ours", "ours-plus": "Ours-plus",
    "generated-only": "Generated pairs only", "real-pretraining": "Pre-trained on labeled images", "both-pretraining": "Pre-trained on both",
    "varied-baseline": "Varied baseline", "longer-baseline": "Varied baseline, trained twice",
    "decoded-upper-bound": "Decoded upper bound", "real-upper-bound": "Real upper bound",
}  # fmt: skip
MIXING = ("ours", "generated-only", "decoded-upper-bound", "real-upper-bound")
"""Arms that mix other pairs in: at a ratio of zero they are another arm, most often the baseline."""
BESIDE = {BASELINE: "the baseline", CONTROL: "the varied baseline trained twice"}
"""Arms that others are compared with, within a sentence."""


def arm_name(arm: str) -> str:
    """An arm's name as shown."""
    return NAMES.get(arm, arm)


def contender(of: Contender) -> str:
    """A study's arm with the ratio where it mixes other pairs in, or was to mix in none."""
    return arm_name(of.arm) + (f" (1:{of.ratio:g})" if of.ratio or of.arm in MIXING else "")


def budget(word: str) -> str:
    """A study's budget as shown."""
    return f"{word} steps" if word.isdecimal() else "early stopping"


def setting(of: Setting) -> str:
    """What the arms of a study's table were given."""
    return f"{plural(of.labelled, 'labeled case')}, {budget(of.budget)}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with a true minus sign, none before what rounds to zero; what does not exist is ``n/a``."""
    return NONE if value is None else f"{value:z.{digits}f}".replace("-", "−")


def percent(share: float | None, digits: int = 1) -> str:
    """A share 0..1 in percent."""
    return NONE if share is None else f"{number(100 * share, digits)} %"


def points(value: float | None, signed: bool = True) -> str:
    """A difference of Dice (0..1) in points (hundredths)."""
    if value is None:
        return NONE
    text = f"{abs(100 * value):.1f}"
    sign = "" if not signed or float(text) == 0 else "+" if value > 0 else "−"
    return sign + text


def duration(seconds: float) -> str:
    """Seconds in the two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plural(count: int, noun: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def mean_dice(scores: Mapping[str, Any]) -> float | None:
    """Mean Dice of an arm's summary."""
    value = scores.get("dice", {}).get("mean")
    return None if value is None else float(value)


def best_arms(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The arms of the highest mean Dice, to the three digits that are shown."""
    known = {arm: round(value, 3) for arm, scores in arms.items() if (value := mean_dice(scores)) is not None}
    return [arm for arm, value in known.items() if value == max(known.values())]


def headline(arms: Mapping[str, Mapping[str, Any]]) -> str:
    """Which arm has the best mean Dice, in one sentence."""
    best = best_arms(arms)
    if not best:
        return "No arm has been evaluated yet."
    value = number(mean_dice(arms[best[0]]))
    count = plural(int(arms[best[0]].get("cases", 0)), "test case")
    if len(arms) == 1:
        return f"{arm_name(best[0])} reaches a mean Dice of {value} on {count}; there is no other arm to compare it with."
    if len(best) > 1:
        return f"{' and '.join(map(arm_name, best))} share the highest mean Dice, {value} on {count}."
    return f"{arm_name(best[0])} has the highest mean Dice: {value} on {count}."


def compared(arm: str, difference: Difference, beside: str = BASELINE) -> str:
    """How an arm compares with the baseline, or another of `BESIDE`, good or bad."""
    name, text = arm_name(arm), points(difference.value, signed=False)
    if float(text) == 0:
        verdict = f"{name} and {BESIDE[beside]} are equal to within 0.1 Dice points"
    else:
        verdict = f"{name} is {text} Dice points {'above' if difference.value > 0 else 'below'} {BESIDE[beside]}"
    if difference.low is None:
        return f"{verdict}; a single test patient allows no confidence interval."
    verdict += f" (95% confidence interval {points(difference.low)} to {points(difference.high)})."
    if float(text) == 0:
        return verdict
    if not difference.settled:
        return f"{verdict} The interval includes zero: these cases do not tell the two apart."
    if difference.value < 0:
        return f"{verdict} In this run it did not help; it did worse."
    return f"{verdict} The interval leaves out zero: on these cases the gain is consistent."


def caution(cases: int) -> str:
    """What the interval does not cover."""
    return (
        f"One training seed and {plural(cases, 'test case')} cannot settle which arm is better. The interval says how much the "
        "difference depends on which test cases happened to be drawn; how much it depends on the seed of the training is not "
        "measured here."
    )


def arm_description(finetune: Mapping[str, Any], done: Mapping[str, Any]) -> str:
    """What an arm was trained on, from its configuration and what it reports."""
    config = finetune.get("config") or {}
    if not config:
        return ""
    labeled, generated = done.get("labeled"), done.get("generated")
    parts = ["labeled cases" if labeled is None else plural(int(labeled), "labeled case")]
    if config.get("generated"):
        parts.append("generated pairs" if generated is None else plural(int(generated), "generated pair"))
    start = "encoder pre-trained by masked-image modeling" if config.get("pretrained") else "weights from scratch"
    if config.get("initial"):
        start = f"weights of the segmenter in {Path(config['initial']).name}"
    return f"{' + '.join(parts)}, {start}"


def tiles(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key figures: value, what it is, and what it means."""
    found: list[tuple[str, str, str]] = []
    for arm, scores in summary.get("arms", {}).items():
        what = "baseline" if arm == BASELINE else arm_name(arm)
        found.append((number(mean_dice(scores)), f"mean Dice, {what}", "segmentation of the test cases; 1 is perfect"))
    if "autoencoder" in summary:
        dice = summary["autoencoder"].get("label_dice", {})
        laa = f"mean Dice of the labels; LAA {number(dice.get('LAA'))}"
        found.append((number(dice.get("mean")), "autoencoder round trip", laa))
    if "generate" in summary:
        share = percent(summary["generate"].get("complete_share"), 0)
        found.append((share, "complete generated pairs", "all eight structures are there"))
    if "seconds" in summary:
        found.append((duration(summary["seconds"]["total"]), "total time", "all finished stages"))
    if "peak_gib" in summary:
        found.append((f"{number(summary['peak_gib'], 1)} GiB", "peak memory", "the most the run held at once"))
    return found
