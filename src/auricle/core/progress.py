"""What a person or a machine sees while something runs: progress bars with an ETA, or one JSON event a line, or nothing.

The command line chooses once (`configure`); everything else calls `track`, `report` and `notice`.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Mode = Literal["bars", "quiet", "json"]
T = TypeVar("T")

_mode: Mode = "quiet"
_console = Console(stderr=True, highlight=False)


def configure(mode: Mode) -> None:
    """Choose the output of this process: ``bars`` (standard error), ``json`` (events on standard output) or ``quiet``."""
    global _mode
    _mode = mode


def event(kind: str, **fields: Any) -> None:
    """Emit one JSON event on standard output, in ``json`` mode alone."""
    if _mode == "json":
        sys.stdout.write(json.dumps({"event": kind, "time": round(time.time(), 3), **fields}) + "\n")
        sys.stdout.flush()


def report(message: str) -> None:
    """Say that something was done or skipped."""
    event("report", message=message)
    if _mode == "bars":
        _console.print(message, markup=False, soft_wrap=True)


def notice(message: str) -> None:
    """Say something the user should know about the data; shown in every mode (standard error)."""
    event("notice", message=message)
    if _mode != "json":
        _console.print(f"notice: {message}", markup=False, soft_wrap=True)


@contextmanager
def bar(name: str, total: int, done: int = 0) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A progress bar; the value yielded is ``update(done, values)`` with figures to show beside it (loss, Dice, ..)."""
    if _mode != "bars":
        last = [time.monotonic()]

        def emit(count: int, values: dict[str, float]) -> None:
            if count >= total or time.monotonic() - last[0] > 1.0:
                last[0] = time.monotonic()
                event("progress", name=name, done=count, total=total, **values)

        yield emit
        return
    columns = (TextColumn("{task.description:<22}"), BarColumn(bar_width=None), MofNCompleteColumn(),
               TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[values]}"))  # fmt: skip
    # A log file gets the finished line alone; a terminal gets a live bar.
    with Progress(*columns, console=_console) as progress:
        task = progress.add_task(name, total=total, completed=done, values="")

        def update(count: int, values: dict[str, float]) -> None:
            progress.update(task, completed=count, values=" ".join(f"{k} {v:.3g}" for k, v in values.items()))

        yield update


def track(items: Iterable[T], name: str, total: int) -> Iterator[T]:
    """Iterate with a progress bar."""
    with bar(name, total) as update:
        for i, item in enumerate(items):
            yield item
            update(i + 1, {})
