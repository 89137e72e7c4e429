"""Memory and time of every stage of a recipe, estimated before any of them runs."""

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any

from auricle.core.errors import InputError
from auricle.stages.cohort import CohortConfig
from auricle.stages.needs import Known, need
from auricle.training.cost import resident_bytes

UNITS = {"": 1, "B": 1, **{f"{p}IB": 1024**i for i, p in enumerate("KMGT", 1)}, **{f"{p}B": 1000**i for i, p in enumerate("KMGT", 1)}}


@dataclass(frozen=True)
class Estimate:
    """What one stage will take."""

    stage: str
    needs_gib: float
    """Memory at its fullest moment, interpreter and libraries included."""
    seconds: float | None
    """Time without early stopping, and if every generated candidate passes the gate; None where the machine's rate is not known."""
    steps: int
    """Optimizer steps without early stopping; for generate, evaluations of the denoiser; for evaluate, cases."""
    fits: bool | None
    """Whether it fits into the memory; None where none was given."""
    advice: str
    """For a stage that does not fit: the flags of its command with which it does, or what else to change."""


def plan(
    recipe_steps: Sequence[tuple[str, Any]], memory_bytes: int | None, rate: float | None, base_bytes: int | None = None
) -> list[Estimate]:  # fmt: skip
    """Estimate every stage of a recipe but the preparation of its cohort, which must come first.

    Args:
        recipe_steps: name and configuration of each stage, in order; a stage is found by what comes before it, never on disk.
        memory_bytes: memory to fit into, or None.
        rate: floating-point operations a second (`training.cost.measure_rate`), or None.
        base_bytes: memory of interpreter and libraries; that of this process now unless given.

    Raises `InputError` or `ValueError` for a cohort that cannot be opened or split, or a grid that a network cannot take.
    """
    base = resident_bytes() if base_bytes is None else base_bytes
    cohort = recipe_steps[0][1]
    assert isinstance(cohort, CohortConfig), "the cohort comes first"
    known = Known(cohort)
    estimates = []
    for name, config in recipe_steps[1:]:
        takes = need(config, known)
        seconds = None if rate is None else takes.flops / rate + takes.seconds
        total = base + takes.bytes
        fits = None if memory_bytes is None else total <= memory_bytes
        advice = _advice(config, known, memory_bytes - base) if memory_bytes is not None and not fits else ""
        estimates.append(Estimate(name, total / 2**30, seconds, takes.steps, fits, advice))
        known.before.append(config)
    return estimates


def shortage(recipe_steps: Sequence[tuple[str, Any]], free: int, left: Collection[str], base_bytes: int | None = None) -> str:
    """What will not fit of the stages that are `left`, in one line; empty where all do. `free` bytes are free beside what this process holds."""
    base = resident_bytes() if base_bytes is None else base_bytes
    room = free + base
    lacking = [e for e in plan(recipe_steps, room, None, base) if e.fits is False and e.stage in left]
    if not lacking:
        return ""
    listed = ", ".join(f"{e.stage} about {e.needs_gib:.1f} GiB" for e in lacking)
    size = f"{room / 2**30:.1f}"
    return f"{size} GiB of memory are free, less than {listed}: `auricle plan --memory {size}GiB` names flags of single stages that lower it"


def parse_size(text: str) -> int:
    """Bytes of a size such as ``16GiB``, ``16 GB``, ``800MiB`` or ``17179869184``; raises `InputError` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B|B|)\s*", text, re.IGNORECASE)
    # A fraction of a byte is as senseless as none at all; Decimal keeps large counts of bytes exact.
    size = Decimal(match[1]) * UNITS[match[2].upper()] if match else Decimal(0)
    if size < 1 or (match and not match[2] and "." in match[1]):
        raise InputError(f"--memory {text!r} is no size: give one such as 16GiB, 16GB, 800MiB or a number of bytes")
    return int(size)


def rows(estimates: Sequence[Estimate]) -> list[dict[str, Any]]:
    """The estimates as plain dictionaries for JSON."""
    return [asdict(e) for e in estimates]


def table(estimates: Sequence[Estimate]) -> str:
    """The estimates as a plain-text table, with the largest memory and the sum of the times below."""
    known = [e.seconds for e in estimates if e.seconds is not None]
    lines = [("stage", "GiB", "time", "steps", "fits")]
    for e in estimates:
        lines.append((e.stage, f"{e.needs_gib:.1f}", duration(e.seconds), str(e.steps), {True: "yes", False: "no", None: ""}[e.fits]))
    whole = duration(sum(known)) if len(known) == len(estimates) else ""
    lines.append(("all", f"{max((e.needs_gib for e in estimates), default=0.0):.1f}", whole, "", ""))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    text = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))) for line in lines]
    notes = [f"{e.stage}: {e.advice}" for e in estimates if e.advice]
    return "\n".join([*(line.rstrip() for line in text), *notes])


def duration(seconds: float | None) -> str:
    """A time in the unit that suits it, to two digits; empty for None."""
    if seconds is None:
        return ""
    for name, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{float(f'{seconds / length:.2g}'):g} {name}"
    return f"{math.ceil(seconds)} s"


def _advice(config: Any, known: Known, room: int) -> str:
    """The first change of flags with which the stage fits into `room` bytes."""
    text = ""
    for text, changed in _smaller(config, known):
        if need(changed, known).bytes <= room:
            return text
    even = f" (even {text} is not enough)" if text else ""
    return f"needs a smaller model grid, --size of the cohort{even}"


def _smaller(config: Any, known: Known) -> Iterator[tuple[str, Any]]:
    """Each flag that lowers the memory, weaker changes first; then their strongest values one after another, all together in the end."""
    knobs = [(path, values) for path, values in _knobs(config, known).items() if values]
    for path, values in knobs:
        for value in values:
            yield _flag(path, value), _changed(config, path, value)
    together: Any = config
    flags: list[str] = []
    for path, values in knobs:
        together, flags = _changed(together, path, values[-1]), [*flags, _flag(path, values[-1])]
        if len(flags) > 1:
            yield " ".join(flags), together


def _knobs(config: Any, known: Known) -> dict[str, list[Any]]:
    """Fields that lower the memory of a stage, with ever smaller values; those that a configuration lacks have none."""
    network = getattr(config, "network", None)
    knobs: dict[str, list[Any]] = {
        "fit.batch_size": _halves(config.fit.batch_size) if hasattr(config, "fit") else [],
        "batch_size": _halves(getattr(config, "batch_size", 1)),
        "network.checkpoint": [True] if getattr(network, "checkpoint", None) is False else [],
        "views": _halves(getattr(config, "views", 1)),
        "patch": [],
        "tile": [t for t in (16, 8, 4) if t < (config.tile or 32)] if hasattr(config, "tile") else [],
    }
    if hasattr(config, "patch"):
        multiple = getattr(network, "multiple", None) or network.downsampling  # type: ignore[union-attr]
        size = config.patch or known.grid.size
        knobs["patch"] = [tuple(max(multiple, n // k // multiple * multiple) for n in size) for k in (2, 4)]
    return knobs


def _halves(value: int) -> list[int]:
    return [value >> i for i in range(1, value.bit_length())]


def _flag(path: str, value: Any) -> str:
    shown = "" if value is True else " " + (" ".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return f"--{path.replace('_', '-')}{shown}"


def _changed(config: Any, path: str, value: Any) -> Any:
    head, _, rest = path.partition(".")
    return replace(config, **{head: _changed(getattr(config, head), rest, value) if rest else value})
