"""A study's table: gains beside the baseline, and beside the arm that is trained as long without generated pairs."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from auricle.core.anatomy import KEYS
from auricle.core.errors import InputError
from auricle.report import study_figures, words
from auricle.report.study_page import Sheet, headroom_sheet, latex, markdown, setting_sheets, write_study
from auricle.study import results
from auricle.study.arms import DEFAULT_ARMS, STUDY_ARMS
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
                    scores = [round(dice + noise[case, k], 6), 5 - dice, dice, 1.0, 0]
                    writer.writerow(["r", arm, 4, ratio, "9", 0, f"c{case}", structure, *scores, f"p{case}"])
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


def add_second_seed(table: Path, change: dict[str, float]) -> None:
    """A second seed of some arms, whose Dice differs by so much from the first one's."""
    lines = table.read_text().splitlines()
    for line in lines[1:]:
        cells = line.split(",")
        if cells[1] in change:
            lines.append(",".join([*cells[:5], "1", *cells[6:8], str(float(cells[8]) + change[cells[1]]), *cells[9:]]))
    table.write_text("\n".join(lines) + "\n")


def test_the_share_of_headroom_is_that_of_the_seeds_that_were_run(table: Path) -> None:
    """In a second seed the headroom is twice as large, and ours-plus was not run."""
    add_second_seed(table, {"baseline": -0.2, "real-upper-bound": 0.0})
    found = results.gains(results.read(table), AT)
    bound, plus = found[Contender("real-upper-bound", 3.0)], found[Contender("ours-plus", 0.0)]
    assert bound.overall is not None
    assert bound.overall.value == pytest.approx(0.30, abs=1e-6)
    assert bound.share_of_headroom == pytest.approx(1.0)
    assert plus.share_of_headroom == pytest.approx(0.65, abs=1e-6)


def test_the_share_of_headroom_leaves_out_seeds_that_the_bound_lacks(table: Path) -> None:
    """In a second seed ours-plus gains nothing, and the bound was not run."""
    add_second_seed(table, {"baseline": 0.0, "ours-plus": -0.13})
    plus = results.gains(results.read(table), AT)[Contender("ours-plus", 0.0)]
    assert plus.overall is not None
    assert plus.overall.value == pytest.approx(0.065, abs=1e-6)
    assert plus.share_of_headroom == pytest.approx(0.65, abs=1e-6)


def test_budgets_are_ordered_by_their_steps() -> None:
    mixed = [Setting(8, "300"), Setting(4, "early"), Setting(4, "1000"), Setting(4, "300")]
    assert sorted(mixed) == mixed[::-1]


def test_pictures_of_a_larger_table_are_removed_and_nothing_is_never_the_best(table: Path, tmp_path: Path) -> None:
    (tmp_path / "study-labelled.png").write_bytes(b"old")
    lines = [line.split(",") for line in table.read_text().splitlines()]
    for cells in lines[1:]:
        if cells[7] == "LAA":
            cells[8:13] = ["", "", "", "", "0"]
    table.write_text("\n".join(map(",".join, lines)) + "\n")
    text = write_study(table, tmp_path).read_text(encoding="utf-8")
    assert not (tmp_path / "study-labelled.png").exists()
    assert (tmp_path / "study-gains.png").exists()
    assert "n/a" in text
    assert "**n/a**" not in text


def test_no_two_arms_are_drawn_alike() -> None:
    looks = [(study_figures._color(i), study_figures._mark(i)) for i in range(len(STUDY_ARMS))]
    assert len(set(looks)) == len(looks)
    assert len({color for color, _ in looks[: len(DEFAULT_ARMS)]}) == len(DEFAULT_ARMS)


def test_the_page_shows_them_where_the_control_was_run(table: Path, tmp_path: Path) -> None:
    text = write_study(table, tmp_path / "whole").read_text(encoding="utf-8")
    section = text.split("## Gain in Dice points beside Varied baseline, trained twice")[1].split("##")[0]
    assert "| Ours-plus | +3.0 (+3.0 to +3.0)" in section
    assert "| Baseline |" not in section
    less = "".join(line for line in table.read_text().splitlines(keepends=True) if f",{CONTROL}," not in line)
    (tmp_path / "less.csv").write_text(less)
    assert "beside Varied" not in write_study(tmp_path / "less.csv", tmp_path / "less").read_text(encoding="utf-8")


def test_arms_of_fewer_seeds_say_so_and_are_never_the_best(table: Path) -> None:
    """An unfinished study: means of other seeds stand beside each other, and the easier seeds would win."""
    rows = list(csv.reader(table.read_text(encoding="utf-8").splitlines()))
    again = [[*r[:5], "1", *r[6:8], str(round(float(r[8]) - 0.2, 6)), *r[9:]] for r in rows[1:] if r[1] in ("baseline", CONTROL)]
    with table.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, lineterminator="\n").writerows([*rows, *again])
    found = results.read(table)
    dice = setting_sheets(found, AT, {})[0]
    names = {row[0]: i for i, row in enumerate(dice.rows)}
    assert "Ours-plus, 1 of 2 seeds" in names
    assert {i for i, _ in dice.bold} == {names["Varied baseline, trained twice"]}
    # Headroom and both means are of the one seed that both have.
    (headroom,) = headroom_sheet(found).rows
    assert headroom[3:5] == [words.number(found[AT][Contender(a, r)].on([0]).mean("dice")) for a, r in (("baseline", 0.0), ("real-upper-bound", 3.0))]
    assert headroom[5].startswith("+20.0")


@pytest.mark.parametrize(("seeds", "starred"), [(4, False), (5, True)])
def test_stars_need_five_seeds(table: Path, seeds: int, starred: bool) -> None:
    rows = list(csv.reader(table.read_text(encoding="utf-8").splitlines()))
    with table.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(rows[0])
        for seed in range(seeds):
            writer.writerows([*r[:5], str(seed), *r[6:]] for r in rows[1:])
    gains = setting_sheets(results.read(table), AT, {})[1]
    plus = next(row for row in gains.rows if row[0] == "Ours-plus")
    assert plus[1] == "+13.0 (+13.0 to +13.0)" + ("*" if starred else "")


def test_what_is_invented_counts_against_its_arm(table: Path) -> None:
    """Where the reference has no appendage, Dice is 0 for the arm that finds one and does not exist for the other: the gain must still show it."""
    lines = table.read_text().splitlines()
    for i, line in enumerate(lines[1:], 1):
        cells = line.split(",")
        if cells[7] == "LAA" and cells[1] in ("baseline", "ours-plus"):
            cells[8:12] = ["0.0", "", "0.0", "7.5"] if cells[1] == "baseline" else ["", "", "", ""]
            lines[i] = ",".join(cells)
    table.write_text("\n".join(lines) + "\n")
    found = results.read(table)
    for measure, expected in (("dice", 1.0), ("nsd", 1.0), ("hd95_mm", -(5 - min(DICE.values()))), ("volume_error_ml", -7.5)):
        gain = results.gains(found, AT, measure)[Contender("ours-plus", 0.0)].structures["LAA"]
        assert gain is not None
        assert gain.value == pytest.approx(expected)
    record = next(r for r in results.summary(found) if r["arm"] == "ours-plus")
    # Better is lower there.
    assert [record[f"{m}_gain"]["LAA"]["superiority"] for m in ("dice", "hd95_mm", "volume_error_ml")] == [1.0, 1.0, 1.0]


def rewrite(table: Path, change: Callable[[list[str]], list[str]], delimiter: str = ",") -> Path:
    """The table with each row's cells changed, as another program might save it."""
    with table.open(encoding="utf-8", newline="") as handle:
        header, *rows = csv.reader(handle)
    other = table.with_name("other.csv")
    with other.open("w", encoding="utf-8-sig", newline="") as handle:
        csv.writer(handle, delimiter=delimiter).writerows([header, *map(change, rows)])
    return other


def with_cell(column: str, value: str) -> Callable[[list[str]], list[str]]:
    at = COLUMNS.index(column)
    return lambda cells: [*cells[:at], value, *cells[at + 1 :]]


def floats(cells: list[str]) -> list[str]:
    """Numbers as a data frame writes them."""
    numbers = {COLUMNS.index(k) for k in ("labelled", "ratio", "budget", "seed", "dice", "missed")}
    return [str(float(c)) if i in numbers else c for i, c in enumerate(cells)]


def test_a_table_that_a_spreadsheet_saved_is_the_same_table(table: Path, tmp_path: Path) -> None:
    saved = rewrite(table, floats, ";")
    assert saved.read_bytes() != table.read_bytes()
    assert results.summary(results.read(saved)) == results.summary(results.read(table))
    joined = results.join([table], tmp_path / "joined.csv")
    assert results.join([saved, table], tmp_path / "both.csv").read_bytes() == joined.read_bytes()


def test_other_scores_of_the_same_training_are_refused_however_they_are_spelled(table: Path, tmp_path: Path) -> None:
    other = rewrite(table, lambda cells: with_cell("dice", "0.1")(floats(cells)))
    with pytest.raises(InputError, match="differ in arm baseline, labelled 4, ratio 0, budget 9, seed 0, case c0"):
        results.join([table, other], tmp_path / "joined.csv")
    table.write_text(table.read_text() + other.read_text(encoding="utf-8-sig").split("\n", 1)[1])
    with pytest.raises(InputError, match="holds two results for arm baseline"):
        results.read(table)


def test_a_table_that_holds_other_results_is_not_replaced(table: Path, tmp_path: Path) -> None:
    other = rewrite(table, with_cell("seed", "1"))
    results.join([other], tmp_path / "out" / "study.csv")
    before = (tmp_path / "out" / "study.csv").read_bytes()
    with pytest.raises(InputError, match="holds results that are not among the given ones"):
        results.join([table], tmp_path / "out" / "study.csv")
    assert (tmp_path / "out" / "study.csv").read_bytes() == before
    results.join([table, other], tmp_path / "out" / "study.csv")
    results.join([table, other], tmp_path / "out" / "study.csv")
    assert results.read(tmp_path / "out" / "study.csv")[AT][Contender("baseline", 0.0)].seeds == (0, 1)


@pytest.mark.parametrize(
    ("column", "value"),
    [("labelled", "four"), ("labelled", "inf"), ("ratio", ""), ("budget", "soon"), ("missed", "2"), ("missed", ""), ("dice", "?"),
     ("structure", "SVC")],
)
def test_a_damaged_table_is_named_with_its_line(table: Path, column: str, value: str) -> None:
    damaged = rewrite(table, with_cell(column, value))
    with pytest.raises(InputError, match=r"other\.csv, line 2: "):
        results.read(damaged)


def test_a_table_cut_off_within_a_line_is_refused(table: Path) -> None:
    text = table.read_text()
    table.write_text(text[: text.rindex("real-upper-bound,4") + len("real-upper-bound,4")])
    with pytest.raises(InputError, match="says nothing of ratio and budget"):
        results.read(table)


def test_a_structure_that_neither_map_has_counts_nowhere(table: Path) -> None:
    """Older tables say that its volume is off by 0 mL."""
    rewritten = rewrite(table, lambda cells: [*cells[:8], "", "", "", "0.0", *cells[12:]] if cells[7] == "LAA" else cells)
    scores = results.read(rewritten)[AT][Contender("baseline", 0.0)]
    assert scores.by_structure("volume_error_ml")["LAA"] is None
    assert scores.absent == 6
    other = next(s for s in setting_sheets(results.read(rewritten), AT, {}) if s.title.startswith("Other"))
    assert other.rows[0][-1] == f"0 of {6 * (len(KEYS) - 1)}"


def test_of_next_to_no_headroom_no_share_is_told(table: Path) -> None:
    def near(cells: list[str]) -> list[str]:
        return with_cell("dice", str(float(cells[8]) - 0.196))(cells) if cells[1] == "real-upper-bound" else cells

    gains = results.gains(results.read(rewrite(table, near)), AT)
    assert gains[Contender("real-upper-bound", 3.0)].overall is not None
    assert {g.share_of_headroom for g in gains.values()} == {None}


def test_arms_that_are_equal_to_the_digits_shown_are_both_bold(table: Path) -> None:
    def level(cells: list[str]) -> list[str]:
        return with_cell("dice", str(float(cells[8]) - 0.0299))(cells) if cells[1] == "ours-plus" else cells

    sheet = setting_sheets(results.read(rewrite(table, level)), AT, {})[0]
    assert {sheet.rows[i][0] for i, j in sheet.bold if j == 1} == {words.arm_name(CONTROL), words.arm_name("ours-plus")}


def test_an_arm_that_was_to_mix_pairs_in_says_so_at_a_ratio_of_zero(table: Path) -> None:
    with_zero = rewrite(table, lambda cells: with_cell("ratio", "0")(cells) if cells[1] == "real-upper-bound" else cells)
    found = results.read(with_zero)
    assert "Real upper bound (1:0)" in [row[0] for row in setting_sheets(found, AT, {})[0].rows]
    assert headroom_sheet(found).rows == []


def test_names_with_marks_of_latex_and_markdown_stay_names() -> None:
    sheet = Sheet("a", ["Arm", "b"], [["x^2_50%$a {~} <i> *|* \\", "1"]])
    row = latex(sheet).splitlines()[6]
    assert row == r"  x\textasciicircum{}2\_50\%\$a \{\textasciitilde{}\} $<$i$>$ $^{*}$$|$$^{*}$ \textbackslash{} & 1 \\"
    assert markdown(sheet).splitlines()[2] == r"| x^2\_50%$a {~} \<i\> \*\|\* \\ | 1 |"
