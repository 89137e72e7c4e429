"""A study's results: one tidy table, and what it says about each arm beside the baseline.

    study.csv   recipe, arm, labelled, ratio, budget, seed, case, structure, dice, hd95_mm, nsd, volume_error_ml, missed, patient

Tables of before had no column for the patient: there every case is one of its own.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.anatomy import KEYS
from auricle.core.errors import InputError
from auricle.core.files import write_text
from auricle.core.runs import fingerprint_of
from auricle.data.tables import read_table
from auricle.study.plan import EARLY, Cell
from auricle.study.statistics import Difference, Table, compare, credited, holm, mean_score

MEASURES = ("dice", "hd95_mm", "nsd", "volume_error_ml")
COLUMNS = ("recipe", "arm", "labelled", "ratio", "budget", "seed", "case", "structure", *MEASURES, "missed", "patient")
_KEYS = COLUMNS.index("structure") + 1
"""Columns that say which value a row holds."""
BASELINE, BOUND = "baseline", "real-upper-bound"
CONTROL = "longer-baseline"
"""Trained as long as `ours-plus` and with its augmentation, without a generated pair."""
LEAST_HEADROOM = 0.005
"""Of less than half a Dice point no share is told: it would be thousands of percent of next to nothing."""
NO_COMPETITORS = (BOUND, "decoded-upper-bound")
"""Arms that see more labeled cases than the others."""


@dataclass(frozen=True, order=True)
class Setting:
    """What a training was given, whatever its arm; budgets are ordered by their steps, early stopping last."""

    labelled: int
    order: float = field(init=False, repr=False)
    budget: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", float(self.budget) if self.budget.isdecimal() else math.inf)


@dataclass(frozen=True, order=True)
class Contender:
    """An arm with its share of generated pairs."""

    arm: str
    ratio: float


@dataclass(frozen=True)
class Scores:
    """All scores of a contender in a setting; the tables are (seeds, cases, structures), NaN where there is no value.

    The error of the volume is without its sign here.
    """

    seeds: tuple[int, ...]
    cases: tuple[str, ...]
    tables: Mapping[str, Table]
    missed: NDArray[np.bool_]
    patients: Mapping[str, str]
    """Of each case."""

    @property
    def absent(self) -> int:
        """How often a structure lies in neither map."""
        return int(np.isnan(self.tables["dice"]).sum())

    def on(self, seeds: Iterable[int]) -> "Scores":
        """The same of those of its `seeds` alone."""
        places = [self.seeds.index(s) for s in sorted(set(self.seeds) & set(seeds))]
        tables = {m: t[places] for m, t in self.tables.items()}
        return replace(self, seeds=tuple(self.seeds[i] for i in places), tables=tables, missed=self.missed[places])

    def mean(self, measure: str) -> float | None:
        """Mean over structures of the mean over seeds and cases; a miss has no HD95, and None is left where all are missed."""
        return _finite(mean_score(self.tables[measure])[0])

    def by_structure(self, measure: str) -> dict[str, float | None]:
        """Mean of each structure over seeds and cases; None where it has no value."""
        means = {k: self.tables[measure][:, :, i] for i, k in enumerate(KEYS)}
        return {k: float(v[np.isfinite(v)].mean()) if np.isfinite(v).any() else None for k, v in means.items()}

    def seed_sd(self, measure: str) -> float | None:
        """SD over seeds of the mean; None for one seed."""
        means = [mean_score(t[None])[0] for t in self.tables[measure]]
        return _finite(np.std(means, ddof=1)) if len(means) > 1 and np.isfinite(means).all() else None


def _finite(value: float | np.floating[Any]) -> float | None:
    return float(value) if np.isfinite(value) else None


Results = dict[Setting, dict[Contender, Scores]]


def collect(cells: Iterable[Cell], recipe: str, target: Path) -> Path:
    """Write the tidy table of all cells that are evaluated, in their order; the same bytes whoever ran them. Returns `target`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in cells:
        path = cell.scores / "cases.csv"
        if fingerprint_of(cell.scores) is None:
            continue
        with path.open(encoding="utf-8", newline="") as handle:
            for row in csv.DictReader(handle):
                known = [recipe, cell.arm, cell.labelled, f"{cell.ratio:g}", cell.budget, cell.seed]
                writer.writerow([*known, *(row[k] for k in COLUMNS[len(known):-1]), row.get("patient") or row["case"]])
    write_text(target, text.getvalue())
    return target


def join(tables: Sequence[Path], target: Path) -> Path:
    """Write the rows of several tables of one recipe as one, each row once, in the order given. Returns `target`.

    A study that is too long for one machine or one sitting is run in parts: other seeds, sizes or arms each.

    Raises:
        InputError: a file is no such table, recipes or test cases differ, two tables differ on the same training and case, or `target` holds a row
            that none of them has.
    """
    kept: dict[tuple[str, ...], tuple[str, ...]] = {}
    recipes: dict[str, Path] = {}
    for path in tables:
        for values in _rows(path):
            recipes.setdefault(values[0], path)
            if kept.setdefault(values[:_KEYS], values) != values:
                raise InputError(f"{path} and another table differ in {_where(values)}: they come from different trainings of the same name")
    if target.exists() and target.resolve() not in {t.resolve() for t in tables} and set(_rows(target)) - set(kept.values()):
        raise InputError(f"{target} holds results that are not among the given ones: name it too, or choose another --out")
    if len(recipes) > 1:
        raise InputError(f"the tables come from different recipes: {', '.join(f'{r} ({p})' for r, p in recipes.items())}")
    tested: dict[tuple[str, ...], set[str]] = {}
    for values in kept.values():
        tested.setdefault(values[: _KEYS - 2], set()).add(values[_KEYS - 2])
    if any(cases != next(iter(tested.values())) for cases in tested.values()):
        raise InputError("the tables hold scores of different test cases: they come from cohorts or --seed that differ, or one of them is cut off")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *kept.values()])
    write_text(target, text.getvalue())
    return target


def _where(values: Sequence[str]) -> str:
    return ", ".join(f"{k} {v}" for k, v in zip(COLUMNS[1:_KEYS], values[1:_KEYS], strict=True))


def _rows(path: Path) -> list[tuple[str, ...]]:
    """The rows of a tidy table, numbers written alike whatever program saved it, so that equal rows are equal."""
    rows = []
    for row in read_table(path, *COLUMNS[:-1]):
        found = {"patient": row.cells.get("case", ""), **row.cells}
        lacking = [k for k in (*COLUMNS[:_KEYS], "missed") if not found.get(k)]
        if lacking:
            raise InputError(f"{row.place}: says nothing of {' and '.join(lacking)}; it is cut off: run `auricle study` again")
        try:
            rows.append(tuple(_spelled(k, found.get(k, "")) for k in COLUMNS))
        except (OverflowError, ValueError) as error:
            raise InputError(f"{row.place}: is damaged ({error}): run `auricle study` again") from None
    return rows


def _spelled(column: str, text: str) -> str:
    """A cell as `collect` writes it; raises `ValueError` where it holds none of the column's values."""
    if column in MEASURES:
        return text and repr(float(text))
    if column == "ratio":
        return f"{float(text):g}"
    if column in ("labelled", "seed", "missed") or (column == "budget" and text != EARLY):
        number = float(text)
        if number != int(number) or number < 0 or (column == "missed" and number > 1):
            raise ValueError(f"{column} is {text}")
        return str(int(number))
    if column == "structure" and text not in KEYS:
        raise ValueError(f"{text!r:.40} is no structure")
    return text


def read(path: Path) -> Results:
    """The scores of a tidy table, by setting and contender; raises `InputError` for anything else."""
    groups: dict[tuple[Setting, Contender], list[dict[str, str]]] = {}
    met: dict[tuple[str, ...], tuple[str, ...]] = {}
    for values in _rows(path):
        if met.setdefault(values[:_KEYS], values) != values:
            raise InputError(f"{path} holds two results for {_where(values)}: it joins trainings that differ")
        row = dict(zip(COLUMNS, values, strict=True))
        groups.setdefault((Setting(int(row["labelled"]), row["budget"]), Contender(row["arm"], float(row["ratio"]))), []).append(row)
    results: Results = {}
    for (setting, contender), own in groups.items():
        results.setdefault(setting, {})[contender] = _scores(own)
    return results


def _scores(rows: Sequence[Mapping[str, str]]) -> Scores:
    seeds = tuple(sorted({int(r["seed"]) for r in rows}))
    cases = tuple(sorted({r["case"] for r in rows}))
    place = {s: i for i, s in enumerate(seeds)}, {c: i for i, c in enumerate(cases)}, {k: i for i, k in enumerate(KEYS)}
    shape = len(seeds), len(cases), len(KEYS)
    tables, missed = {m: np.full(shape, np.nan) for m in MEASURES}, np.zeros(shape, bool)
    for r in rows:
        at = place[0][int(r["seed"])], place[1][r["case"]], place[2][r["structure"]]
        missed[at] = r["missed"] == "1"
        for measure in MEASURES:
            # Tables of before say 0 mL for the volume's error of a structure that neither map has.
            if r[measure] and (measure != "volume_error_ml" or r["dice"]):
                tables[measure][at] = abs(float(r[measure])) if measure == "volume_error_ml" else float(r[measure])
    return Scores(seeds, cases, tables, missed, {r["case"]: r["patient"] for r in rows})


@dataclass(frozen=True)
class Gain:
    """A contender beside the baseline of its setting."""

    overall: Difference | None
    structures: dict[str, Difference | None]
    """Their p-values are corrected by Holm's method over the structures."""
    share_of_headroom: float | None = None
    """Gain in mean Dice over that of the real upper bound; None where there is no such arm or less than `LEAST_HEADROOM` to gain."""


def gains(results: Results, setting: Setting, measure: str = "dice", beside: str = BASELINE) -> dict[Contender, Gain]:
    """Every contender beside the baseline, or the arm `beside`, on the seeds and cases that both have; empty without such an arm."""
    arms = results[setting]
    base = arms.get(Contender(beside, 0.0))
    if base is None:
        return {}
    worst = _worst(arms.values()) if measure == "hd95_mm" else None
    found = {c: _gain(s, base, measure, worst) for c, s in arms.items() if c.arm not in (BASELINE, beside)}
    if measure != "dice" or beside != BASELINE:
        return found
    bounds = [s for c, s in arms.items() if c.arm == BOUND]
    return {c: replace(gain, share_of_headroom=_share(arms[c], bounds, base)) for c, gain in found.items()}


def _share(scores: Scores, bounds: Sequence[Scores], base: Scores) -> float | None:
    """The gain as a share of the largest one of `bounds`, both on the seeds and cases that all three have."""
    headroom, share = LEAST_HEADROOM, None
    for bound in bounds:
        patients, (best, least, own) = _common("dice", None, bound, base, scores)
        most, gain = compare(best, least, patients), compare(own, least, patients)
        if most is not None and gain is not None and most.value >= headroom:
            headroom, share = most.value, gain.value / most.value
    return share


def _worst(arms: Iterable[Scores]) -> float:
    """The largest distance seen in any arm: what a missed structure counts as, so that missing it never pays."""
    values = np.concatenate([s.tables["hd95_mm"].ravel() for s in arms])
    return float(np.nanmax(values)) if np.isfinite(values).any() else 0.0


def _gain(scores: Scores, base: Scores, measure: str, worst: float | None) -> Gain:
    patients, (ours, theirs) = _common(measure, worst, scores, base)
    single = {k: compare(ours[:, :, i : i + 1], theirs[:, :, i : i + 1], patients) for i, k in enumerate(KEYS)}
    corrected = dict(zip(single, holm([None if d is None else d.p for d in single.values()]), strict=True))
    return Gain(compare(ours, theirs, patients), {k: None if d is None else replace(d, p=corrected[k]) for k, d in single.items()})


def _common(measure: str, worst: float | None, *scores: Scores) -> tuple[list[str], list[Table]]:
    """The cases' patients and the tables of a measure on the seeds and cases that all have; a miss counts as `worst` where that is given.

    Where the reference lacks a structure that one of the arms invents, the others are right (Dice and NSD 1, distance 0), and it is as if missed.
    """
    seeds, cases = (sorted(set.intersection(*(set(getattr(s, name)) for s in scores))) for name in ("seeds", "cases"))

    def part(s: Scores, table: Table) -> Table:
        return table[np.ix_([s.seeds.index(v) for v in seeds], [s.cases.index(c) for c in cases], range(len(KEYS)))]

    tables = np.stack([part(s, s.tables[measure] if worst is None else np.where(s.missed, worst, s.tables[measure])) for s in scores])
    dice = np.stack([part(s, s.tables["dice"]) for s in scores])
    if measure in ("dice", "nsd", "hd95_mm"):
        tables = credited(tables, dice, *((1.0, 0.0) if worst is None else (0.0, worst)))
    else:
        # What is invented is an error of its own volume.
        tables = np.where(np.isnan(dice) & (dice == 0).any(0), 0.0, tables)
    return [scores[0].patients[c] for c in cases], list(tables)


def summary(results: Results) -> list[dict[str, Any]]:
    """One record a setting and contender, for machines: means, SD over seeds, misses and gains of all measures."""
    records = []
    for setting in sorted(results):
        found = {m: gains(results, setting, m) for m in MEASURES}
        for contender, scores in results[setting].items():
            record: dict[str, Any] = {
                "labelled": setting.labelled, "budget": setting.budget, "arm": contender.arm, "ratio": contender.ratio,
                "seeds": len(scores.seeds), "cases": len(scores.cases), "missed": int(scores.missed.sum()),
            }  # fmt: skip
            for m in MEASURES:
                record[m] = {"mean": scores.mean(m), "seed_sd": scores.seed_sd(m), **scores.by_structure(m)}
                if contender in found[m]:
                    record[f"{m}_gain"] = _described(found[m][contender], lower_is_better=m not in ("dice", "nsd"))
            records.append(record)
    return records


def _described(gain: Gain, lower_is_better: bool) -> dict[str, Any]:
    parts = {"mean": gain.overall, **gain.structures}
    text = {k: None if d is None else {f: getattr(d, f) for f in ("value", "low", "high", "p", "superiority")} for k, d in parts.items()}
    if lower_is_better:
        text = {k: None if d is None else {**d, "superiority": 1 - d["superiority"]} for k, d in text.items()}
    return text if gain.share_of_headroom is None else {**text, "share_of_headroom": gain.share_of_headroom}
