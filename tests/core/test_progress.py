"""Progress: events for machines, paced lines for log files, nothing when quiet."""

import json
from collections.abc import Iterator

import pytest

from auricle.core import progress


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    progress.configure("quiet")


def test_events_hold_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    progress.configure("json")
    assert list(progress.track(range(3), "count", 3)) == [0, 1, 2]
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[-1]["event"] == "progress"
    assert (events[-1]["done"], events[-1]["total"], events[-1]["eta"]) == (3, 3, 0)


def test_a_log_file_gets_the_last_line_with_figures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    progress.configure("bars")
    lines: list[str] = []
    monkeypatch.setattr(progress._console, "print", lambda text, **kwargs: lines.append(text))
    with progress.bar("train", 10, 4) as update:
        for step in range(5, 11):
            update(step, {"loss": 0.5})
    assert lines == ["train 10/10 ETA 0:00:00 loss 0.5"]


def test_quiet_says_nothing_but_notices(capsys: pytest.CaptureFixture[str]) -> None:
    progress.configure("quiet")
    list(progress.track(range(3), "count", 3))
    progress.report("done")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
