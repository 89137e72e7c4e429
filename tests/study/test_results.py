"""A study's table: gains beside the baseline, and beside the arm that is trained as long without generated pairs."""

import csv
from pathlib import Path

import numpy as np
import pytest

from auricle.core.anatomy import KEYS
from auricle.report.study_page import write_study
from auricle.study import results
from auricle.study.results import COLUMNS, CONTROL, Contender, Setting

DICE = {"baseline": 0.70, CONTROL: 0.80, "ours-plus": 0.83, "real-upper-bound": 0.90}
AT = Setting(4, "9")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Six cases whose scores differ by the same noise in every arm."""
    noise = np.random.default_rng(0).normal(0, 0.02, (6, len(KEYS)))
    with (tmp_path / "study.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS)
        for arm, dice in DICE.items():
            for case in range(6):
                for k, structure in enumerate(KEYS):
                    ratio = 3 if arm == "real-upper-bound" else 0
                    writer.writerow(["r", arm, 4, ratio, "9", 0, f"c{case}", structure, round(dice + noise[case, k], 6), 5 - dice, dice, 1.0, 0])
    return tmp_path / "study.csv"


def test_gains_beside_the_control_are_the_difference_of_gains_beside_the_baseline(table: Path) -> None:
    found = results.read(table)
    plain, controlled = results.gains(found, AT), results.gains(found, AT, beside=CONTROL)
    assert set(controlled) == {Contender("ours-plus", 0.0), Contender("real-upper-bound", 3.0)}
    for contender, gain in controlled.items():
        whole, base = plain[contender].overall, plain[Contender(CONTROL, 0.0)].overall
        assert gain.overall is not None
        assert whole is not None
        assert base is not None
        assert gain.overall.value == pytest.approx(whole.value - base.value, abs=1e-6)
        # Headroom is what there is to gain beside the baseline.
        assert gain.share_of_headroom is None
    assert plain[Contender("ours-plus", 0.0)].share_of_headroom == pytest.approx(0.65, abs=1e-6)


def test_the_share_of_headroom_is_that_of_the_seeds_that_were_run(table: Path) -> None:
    """In a second seed the headroom is twice as large, and ours-plus was not run."""
    lines = table.read_text().splitlines()
    for line in lines[1:]:
        cells = line.split(",")
        if cells[1] in ("baseline", "real-upper-bound"):
            cells[5] = "1"
            cells[8] = str(float(cells[8]) - (0.2 if cells[1] == "baseline" else 0.0))
            lines.append(",".join(cells))
    table.write_text("\n".join(lines) + "\n")
    found = results.gains(results.read(table), AT)
    bound, plus = found[Contender("real-upper-bound", 3.0)], found[Contender("ours-plus", 0.0)]
    assert bound.overall is not None
    assert bound.overall.value == pytest.approx(0.30, abs=1e-6)
    assert bound.share_of_headroom == pytest.approx(1.0)
    assert plus.share_of_headroom == pytest.approx(0.65, abs=1e-6)


def test_the_page_shows_them_where_the_control_was_run(table: Path, tmp_path: Path) -> None:
    text = write_study(table, tmp_path / "whole").read_text(encoding="utf-8")
    section = text.split("## Gain in Dice points beside Varied baseline, trained twice")[1].split("##")[0]
    assert "| Ours-plus | +3.0 (+3.0 to +3.0)" in section
    assert "| Baseline |" not in section
    less = "".join(line for line in table.read_text().splitlines(keepends=True) if f",{CONTROL}," not in line)
    (tmp_path / "less.csv").write_text(less)
    assert "beside Varied" not in write_study(tmp_path / "less.csv", tmp_path / "less").read_text(encoding="utf-8")
