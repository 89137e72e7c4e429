"""`auricle check` from the command line: exit status, events and files."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from auricle import cli
from auricle.data.folder import find_pairs
from auricle.data.nifti import write_nifti
from auricle.stages import phantom
from auricle.stages.phantom_config import PhantomConfig


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two virtual patients, too few to train on."""
    out = tmp_path_factory.mktemp("check") / "cohort"
    phantom.run(PhantomConfig(patients=2, seed=11, size=(72, 72, 72), spacing=(2.5, 2.5, 2.5), workers=1), out)
    return out


def status(*arguments: str) -> int:
    try:
        cli.main(["check", "--workers", "1", *arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_clean_cases_pass_and_leave_their_files(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert status(str(clean), "-o", str(out), "--quiet") == 0
    assert sorted(p.name for p in out.iterdir()) == ["cases", "check.csv", "check.json", "config.json", "contact-sheet-1.png"]
    printed = capsys.readouterr().out
    assert "notice  2 patients with a label map: training needs 4" in printed
    assert printed.splitlines()[-3:] == [str(out / n) for n in ("check.json", "check.csv", "contact-sheet-1.png")]


def test_events_and_exit_status_of_a_cohort_with_faults(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(shutil.copytree(clean, tmp_path / "cohort"))
    first, second = find_pairs(data)
    assert second.label is not None
    first.image.write_bytes(b"")
    write_nifti(second.label, np.ones((3, 3, 3)), np.eye(4), dtype=np.uint8)
    assert status(str(data), "--json") == 2
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    cases = [e for e in events if e["event"] == "case"]
    assert [(c["id"], [f["severity"] for f in c["findings"]]) for c in cases] == [(first.id, ["refused"]), (second.id, ["refused"])]
    assert [f["code"] for c in cases for f in c["findings"]] == ["file", "grid"]
    assert (events[-1]["event"], events[-1]["refused"], events[-1]["out"]) == ("finished", 2, None)
    assert status(str(data), "--quiet") == 2
    printed = capsys.readouterr().out
    assert len(re.findall("^refused  ", printed, re.MULTILINE)) == 2
    assert list(tmp_path.iterdir()) == [data]


def test_one_scan_and_nothing_at_all(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(str(find_pairs(clean)[0].image), "--quiet", "--quick") == 0
    assert "1 case, 0 labeled, 1 patient" in capsys.readouterr().out
    assert status(str(tmp_path / "none"), "-o", str(tmp_path / "out")) == 2
    assert capsys.readouterr().err == f"auricle: {tmp_path / 'none'}: no such file or folder\n"
    assert list(tmp_path.iterdir()) == []
