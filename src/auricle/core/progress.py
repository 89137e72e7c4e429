"""What a person or a machine sees while something runs: progress bars with an ETA, or one JSON event a line, or nothing.

The command line chooses once (`configure`); everything else calls `track`, `report` and `notice`.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Mode = Literal["bars", "quiet", "json"]
T = TypeVar("T")
Update = Callable[[int, dict[str, float]], None]
LOG_SECONDS = 15.0
"""Seconds between two lines of progress in a log file."""

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
def bar(name: str, total: int, done: int = 0) -> Iterator[Update]:
    """A progress bar; the value yielded is ``update(done, values)`` with figures to show beside it (loss, Dice, ..).

    A terminal gets a live bar, a log file a line every `LOG_SECONDS`, a machine one event a second; all with the time left.
    """
    if _mode != "bars":
        yield _paced(1.0, total, done, lambda count, left, values: event("progress", name=name, done=count, total=total, eta=left, **values))
    elif not _console.is_terminal:
        yield _paced(LOG_SECONDS, total, done, lambda count, left, values: _console.print(
            f"{name} {count}/{total} ETA {timedelta(seconds=left)} {_figures(values)}".rstrip(), markup=False, soft_wrap=True))  # fmt: skip
    else:
        columns = (TextColumn("{task.description:<22}"), BarColumn(bar_width=None), MofNCompleteColumn(),
                   TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[values]}"))  # fmt: skip
        with Progress(*columns, console=_console) as progress:
            task = progress.add_task(name, total=total, completed=done, values="")
            yield lambda count, values: progress.update(task, completed=count, values=_figures(values))


def _paced(seconds: float, total: int, done: int, show: Callable[[int, int, dict[str, float]], None]) -> Update:
    """An update that shows itself at most every `seconds`, and at the end; the time left is that of the pace so far."""
    start = time.monotonic()
    last = [start]

    def update(count: int, values: dict[str, float]) -> None:
        now = time.monotonic()
        if count >= total or now - last[0] > seconds:
            last[0] = now
            show(count, round((now - start) / max(1, count - done) * (total - count)), values)

    return update


def _figures(values: dict[str, float]) -> str:
    return " ".join(f"{k} {v:.3g}" for k, v in values.items())


def track(items: Iterable[T], name: str, total: int) -> Iterator[T]:
    """Iterate with a progress bar."""
    with bar(name, total) as update:
        for i, item in enumerate(items):
            yield item
            update(i + 1, {})
