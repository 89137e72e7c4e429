"""The report's tables as rows of text; the template gives them their markup."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from auricle.core.anatomy import KEYS, STRUCTURES
from auricle.report import words
from auricle.report.reading import RunFolder
from auricle.report.summary import stage_seconds, volume_ratio
from auricle.study.statistics import Difference


@dataclass(frozen=True)
class Cell:
    """A number of a table."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Block:
    """Rows of one measure: (arm, cells)."""

    title: str
    rows: list[tuple[str, list[Cell]]]


def arm_blocks(arms: dict[str, dict[str, Any]]) -> list[Block]:
    """Dice, HD95 and misses of every arm; columns are the mean (or sum) and the structures. The best of each column is marked.

    A miss has no HD95, so that only arms with the fewest misses can be the best there.
    """
    columns = ("mean", *KEYS)
    misses = {arm: {k: v for k, v in s.get("missed", {}).items() if v is not None} for arm, s in arms.items()}
    totals = {arm: {"mean": sum(counts.values()), **counts} for arm, counts in misses.items()}
    least = {c: min((t[c] for t in totals.values() if c in t), default=0) for c in columns}
    barred = {arm: {c for c in columns if t.get(c, 0) > least[c]} for arm, t in totals.items()}
    return [
        Block("Dice (higher is better)", _rows({a: s.get("dice", {}) for a, s in arms.items()}, columns, 3, max)),
        Block("HD95 in mm (lower is better)", _rows({a: s.get("hd95_mm", {}) for a, s in arms.items()}, columns, 1, min, barred)),
        Block("Missed structures: total, and cases each (lower is better)", _rows(totals, columns, 0, min)),
    ]


def _rows(
    values: dict[str, dict[str, Any]], columns: tuple[str, ...], digits: int, better: Any, barred: Mapping[str, set[str]] = MappingProxyType({})
) -> list[tuple[str, list[Cell]]]:  # fmt: skip
    """The arms' values; `barred` are the columns in which an arm cannot be the best."""
    best: dict[str, float] = {}
    for column in columns:
        known = {arm: round(float(v[column]), digits) for arm, v in values.items() if v.get(column) is not None}
        competing = [value for arm, value in known.items() if column not in barred.get(arm, ())]
        # A mark says something only where arms differ.
        if len(set(known.values())) > 1 and competing:
            best[column] = better(competing)

    def cell(arm: str, value: Any, column: str) -> Cell:
        wins = value is not None and round(float(value), digits) == best.get(column) and column not in barred.get(arm, ())
        return Cell(words.number(value, digits), wins)

    return [(words.arm_name(arm), [cell(arm, v.get(c), c) for c in columns]) for arm, v in values.items()]


def difference_rows(found: dict[str, Difference]) -> list[tuple[str, str, str, int]]:
    """Arm, difference, interval and number of cases."""
    intervals = {a: words.NONE if d.low is None else f"{words.points(d.low)} to {words.points(d.high)}" for a, d in found.items()}
    return [(words.arm_name(arm), words.points(d.value), intervals[arm], d.cases) for arm, d in found.items()]


def autoencoder_rows(assessment: dict[str, Any]) -> list[tuple[str, str]]:
    """Dice after the round trip, by structure."""
    dice = assessment.get("label_dice", {})
    rows = [("mean", "mean"), *((f"{s.name} ({s.key})", s.key) for s in STRUCTURES)]
    return [(name, words.number(dice.get(key))) for name, key in rows]


def volume_rows(training: dict[str, list[float]], generated: dict[str, list[float]]) -> list[tuple[str, ...]]:
    """Structure, mean and SD of its volume in training and generated cases, and the ratio of the means."""

    def spread(values: list[float]) -> str:
        sd = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        return f"{np.mean(values):.1f}{sd}" if values else words.NONE

    ratio = volume_ratio(training, generated)
    keys = {f"{s.name} ({s.key})": s.key for s in STRUCTURES}
    return [(name, spread(training[k]), spread(generated[k]), words.number(ratio[k], 2)) for name, k in keys.items()]


def provenance_rows(run: RunFolder) -> list[tuple[str, str]]:
    """What made the run; what run.json does not say is left out."""
    facts = run.run
    machine = facts.get("machine") or {}
    command = facts.get("command")
    rows = [
        ("Recipe", facts.get("recipe")), ("Seed", facts.get("seed")), ("auricle", facts.get("version")),
        ("Started", facts.get("started")),
        ("Command", " ".join(map(str, command)) if isinstance(command, list) else command),
        ("Processor", machine.get("cpu")), ("Cores", machine.get("cores")),
        ("Memory", f"{float(machine['memory_gib']):.1f} GiB" if machine.get("memory_gib") is not None else None),
        ("Platform", machine.get("platform")), ("Python", machine.get("python")), ("PyTorch", machine.get("torch")),
    ]  # fmt: skip
    if run.cohort is not None:
        splits = ", ".join(f"{len(run.case_ids(s))} {s}" for s in ("train", "validation", "test"))
        size, spacing = (" × ".join(f"{v:g}" for v in run.cohort[k]) for k in ("size", "spacing"))
        rows += [("Cases", splits), ("Model grid", f"{size} voxels of {spacing} mm")]
    return [(name, str(value)) for name, value in rows if value is not None]


def stage_rows(run: RunFolder) -> list[tuple[str, str]]:
    """Stage and its time; a stage that began and has not finished says so."""
    seconds = stage_seconds(run)
    rows = [(stage, words.duration(seconds[stage]) if stage in seconds else "not finished") for stage in run.stages()]
    return [*rows, ("total", words.duration(sum(seconds.values())))]


def configurations(run: RunFolder) -> list[tuple[str, str]]:
    """Stage and its configuration as indented JSON."""
    found = [(stage, run.config(stage)) for stage in run.stages()]
    return [(stage, json.dumps(config.get("config", config), indent=2)) for stage, config in found if config]
