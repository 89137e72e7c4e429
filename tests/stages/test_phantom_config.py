"""What can be asked of `auricle phantom`, and what is refused before anything is written."""

from dataclasses import replace
from pathlib import Path

import pytest

from auricle import cli
from auricle.stages.phantom_config import PhantomConfig


def test_one_setting_has_one_spelling() -> None:
    one = replace(PhantomConfig(), metal=("sternal wires", "pacemaker-lead"), prevalence=("Hypertrophy=.5", "aortic_dilation=1"))
    other = replace(PhantomConfig(), metal=("pacemaker_lead", "sternal-wires"), prevalence=("aortic-dilation=1.0", "hypertrophy=0.50"))
    assert one.settings() == other.settings()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("-n 0", "--patients must be 1 to"),
        ("--first -1", "--first must not be negative"),
        ("--seed -1", "--seed must not be negative"),
        ("--workers -1", "--workers must not be negative"),
        ("--size 8 64 64", "--size must be at least 16"),
        ("--size 64 64", "--size"),
        ("--spacing 1 0 1", "--spacing must be 0.1 to 10 mm"),
        ("--spacing nan 1 1", "--spacing must be 0.1 to 10 mm"),
        ("--center-offset 0 0 nan", "--center-offset must be within"),
        ("--scan-shift -2", "--scan-shift must be 0 to"),
        ("--phase 1.2", "--phase must be 0"),
        ("--sex X", "--sex"),
        ("--contrast portal", "--contrast 'portal' is not known; choose from chase"),
        ("--metal gold", "--metal 'gold' is not known"),
        ("--metal any pacemaker-lead", "--metal takes any and none alone"),
        ("--pathology flu", "--pathology 'flu' is not known"),
        ("--prevalence hypertrophy=2", "--prevalence 'hypertrophy=2' is not KIND=SHARE"),
        ("--layout dicom", "--layout"),
    ],
)
def test_mistakes_are_one_line(arguments: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["phantom", "-o", str(tmp_path / "new"), *arguments.split()])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    assert list(tmp_path.iterdir()) == []
