"""The page of an assessment says what the numbers say, whatever they and the names are; its figures show something."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from auricle.core.anatomy import KEYS
from auricle.core.errors import InputError
from auricle.report import assessment, assessment_figures, figures
from auricle.report.assessment import MEASURES, escape, write_assessment
from auricle.report.assessment_figures import Curves, matching_slice
from auricle.report.reading import Pair

TISSUES = ("blood", "myocardium", "fat")
# Case ids come from the names of the user's files.
HOSTILE = "a|b \\| `c` *d* _e_ [f](g) <script>alert(1)<!-- &amp; $h$ ~~i~~"
GOALS: dict[str, tuple[float | None, float | None]] = {
    "label_dice_mean": (0.98, None), "label_dice_LAA": (0.95, None), "image_rmse_over_noise": (None, 1.2), "gate_pass_share": (0.9, None),
    "speck_share": (None, 0.0002), "contrast_obeyed_share": (0.95, None), "metal_obeyed_share": (0.95, None), "copy_share": (None, 0.02),
    "audit_recall_planted": (0.95, None), "audit_recall_planted_generated": (0.95, None), "audit_false_alarm_share": (None, 0.01),
    "location_r": (0.9, None), "volume_r": (0.9, None),
    **{f"volume_r_{k}": (0.9, None) for k in KEYS}, **{f"volume_mean_ratio_{k}": (0.9, 1.1) for k in KEYS},
    **{f"volume_sd_ratio_{k}": (0.75, 1.25) for k in KEYS}, **{f"texture_sd_ratio_{t}": (0.9, 1.1) for t in TISSUES},
    **{f"texture_peak_ratio_{t}": (0.85, 1.15) for t in TISSUES},
}  # fmt: skip
OWN = ("requested", "texture", "histograms", "closest")
FILES = {"assessment.md", "measures.json", *(f"{name}.png" for name in assessment.FIGURES)}


def good() -> dict[str, Any]:
    """Numbers that reach every goal."""
    middle = {k: (low + high) / 2 if low and high else low or high for k, (low, high) in GOALS.items()}
    facts = {"training_cases": 2, "test_cases": 3, "pairs": 2, "seed": 0, "sampler": "dpmpp", "steps": 20}
    return {**facts, **dict.fromkeys(MEASURES, 0.5), **middle}


def measures() -> dict[str, Any]:
    x = np.linspace(0, 0.25, 6)
    sets = {"training": 1.0, "test": 1.1, "generated": 0.8}
    edges = np.arange(-200.0, 500.0, 10.0)
    bell = np.exp(-0.5 * ((edges[:-1] - 100) / 40) ** 2)
    volumes = {name: {k: [10.0 * f, 12.0 * f, 15.0 * f] for k in KEYS} for name, f in sets.items()}
    return {
        "volumes_ml": volumes, "requested_volumes_ml": {k: [[10.0, 9.0], [12.0, 12.5], [15.0, 14.0]] for k in KEYS},
        "requested_location_mm": [],
        "nps": {t: {"frequency_per_mm": x.tolist(), **{s: (100 * f * x).tolist() for s, f in sets.items()}} for t in TISSUES},
        "hu": {t: {"edges": edges.tolist(), **{s: (f * bell / bell.sum()).tolist() for s, f in sets.items()}} for t in TISSUES},
        "nearest": [{"id": f"generated-0-000{i}", "case": f"train-{i}", "score": 0.6 - 0.1 * i} for i in (1, 0)],
    }  # fmt: skip


def build(root: Path, fake: ModuleType) -> Path:
    fake.write_cohort(root)
    fake.write_generated(root)
    path = root / "generate" / "pairs.json"
    gate = {"candidates": 5, "passed": 2, "reasons_before_repair": {"LA | LAA apart": 1, "PA is missing": 3}, "reasons": {"PA is missing": 2}}
    fake.write(path, {**json.loads(path.read_text()), "gate": gate})
    fake.write(root / "assessment.json", good())
    fake.write(root / "assessment" / "measures.json", measures())
    return root


@pytest.fixture
def run(tmp_path: Path, fake: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An assessed run whose figures are chosen and not drawn, which takes most of the time."""
    for module, name in ((figures, "volumes"), (figures, "pairs"), *((assessment_figures, n) for n in OWN)):
        monkeypatch.setattr(module, name, lambda *_: b"a figure")
    return build(tmp_path, fake)


def change(root: Path, **numbers: Any) -> str:
    path = root / "assessment.json"
    path.write_text(json.dumps({**good(), **numbers}))
    return write_assessment(root).read_text(encoding="utf-8")


def edit(root: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    found = measures()
    change(found)
    (root / "assessment" / "measures.json").write_text(json.dumps(found))
    return write_assessment(root).read_text(encoding="utf-8")


def reached(page: str) -> int:
    return int(re.search(r"\*\*(\d+) of \d+ goals reached", page)[1])


def content(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (root / "assessment").iterdir()}


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_every_figure_is_there_and_shows_something(tmp_path: Path, fake: ModuleType) -> None:
    assert write_assessment(build(tmp_path, fake)) == tmp_path / "assessment" / "assessment.md"
    found = content(tmp_path)
    assert set(found) == FILES
    page = found["assessment.md"].decode()
    for name in assessment.FIGURES:
        picture = pixels(found[f"{name}.png"])
        assert picture.std() > 10, name
        assert min(picture.shape[:2]) > 300, name
        assert f"]({name}.png)" in page
    assert "No figure" not in page


def test_goals_are_those_that_were_set() -> None:
    assert {k: (m.low, m.high) for k, m in MEASURES.items() if m.goal} == GOALS


def test_numbers_at_their_goals_reach_them_all(run: Path) -> None:
    page = change(run)
    assert f"**{len(GOALS)} of {len(GOALS)} goals reached.**" in page
    assert "not reached" not in page.lower()


@pytest.mark.parametrize(("key", "sign"), [
    (key, sign) for key, limits in GOALS.items() for limit, sign in zip(limits, (-1, 1), strict=True)
    if limit is not None and not key.endswith(("_RV", "_PA", "_fat"))
])  # fmt: skip
def test_a_number_beyond_its_goal_flips_its_mark_and_no_other(run: Path, key: str, sign: int) -> None:
    limit = GOALS[key][sign > 0]
    assert limit is not None
    at, past = change(run, **{key: limit}), change(run, **{key: limit + 1e-6 * sign})
    assert (reached(at), reached(past)) == (len(GOALS), len(GOALS) - 1)
    assert past.count("**not reached**") == 1
    # The number that is shown lies beyond the goal, too: rounding does not hide it.
    shown = float(past.split(f"\n- {MEASURES[key].name}: ")[1].split()[0].rstrip(";"))
    assert sign * (shown - limit * (100 if MEASURES[key].unit == "%" else 1)) > 0


def test_what_is_not_known_is_said_to_be_unknown(run: Path) -> None:
    none = change(run, **dict.fromkeys(good()))
    assert f"**0 of {len(GOALS)} goals reached.**" in none
    assert "None" not in none
    assert "**not reached**" not in none
    assert none.count("n/a") > len(MEASURES)
    (run / "assessment.json").write_text("{}")
    assert write_assessment(run).read_text(encoding="utf-8") == none


def test_one_unknown_number_is_neither_reached_nor_missed(run: Path) -> None:
    page = change(run, gate_pass_share=None)
    assert reached(page) == len(GOALS) - 1
    assert "not reached" not in page
    assert "Not measured:\n\n- candidates without fault" in page


def test_reasons_come_by_frequency(run: Path) -> None:
    page = change(run)
    assert page.index("| PA is missing | 3 | 2 |") < page.index("| LA \\| LAA apart | 1 | 0 |")
    assert "of 5 candidates" in page


def test_pairs_that_fill_up_are_counted(run: Path, fake: ModuleType) -> None:
    path = run / "generate" / "pairs.json"
    table = json.loads(path.read_text())
    assert "fill up" not in change(run)
    table["pairs"][1]["faults"] = ["PA is missing"]
    fake.write(path, table)
    assert "1 of the 2 kept pairs did not pass" in change(run)


@pytest.mark.parametrize("gate", [[], {"candidates": 3}, {"candidates": 3, "reasons": 4, "reasons_before_repair": {}}])
def test_a_damaged_table_of_pairs_is_named(run: Path, fake: ModuleType, gate: Any) -> None:
    path = run / "generate" / "pairs.json"
    fake.write(path, {**json.loads(path.read_text()), "gate": gate})
    before = content(run)
    with pytest.raises(InputError, match=r"pairs\.json"):
        write_assessment(run)
    assert content(run) == before


def cells(page: str) -> list[list[str]]:
    """Texts of all rows of tables, by a parser of Markdown (rich brings it along)."""
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    rows: list[list[str]] = []
    for token in parser.parse(page):
        assert token.type != "html_block"
        if token.type == "tr_open":
            rows.append([])
        for child in token.children or []:
            assert child.type in ("text", "softbreak", "code_inline", "image") or re.match("(strong|em)_", child.type), child
        if token.type == "inline" and rows and token.level > 2:
            rows[-1].append("".join(c.content for c in token.children))
    return rows


def test_names_that_hold_markup_are_shown_as_text(run: Path, fake: ModuleType) -> None:
    table = json.loads((run / "cohort" / "cases.json").read_text())
    table["cases"][0]["id"] = HOSTILE
    fake.write(run / "cohort" / "cases.json", table)
    for kind in ("images", "labels"):
        shutil.copy(run / "cohort" / kind / "train-0.npy", run / "cohort" / kind / f"{HOSTILE}.npy")
    before = [len(row) for row in cells(change(run))]
    rows = cells(edit(run, lambda m: m["nearest"][1].update(case=HOSTILE)))
    assert ["generated-0-0000", HOSTILE, "0.600"] in rows
    assert [len(row) for row in rows] == before
    assert "closest.png" in content(run)


@given(st.text(max_size=30) | st.text("|\\`*_[]()<>&#!~$ \n", max_size=12))
@settings(max_examples=40, deadline=None)
def test_any_text_stays_in_its_cell(text: str) -> None:
    shown = "".join(c for c in " ".join(text.split()) if c.isprintable()).strip()
    rows = cells(f"| a | b |\n| --- | --- |\n| {escape(text)} | x |\n")
    assert rows[1:] == [[shown, "x"]]


def lacking(*keys: str) -> str:
    found = measures()
    inner = found
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return json.dumps(found)


@pytest.mark.parametrize(("name", "text"), [
    *(("assessment.json", text) for text in (
        None, "{", "[]", json.dumps({**good(), "speck_share": "few"}), json.dumps({**good(), "copy_share": float("nan")}),
        json.dumps({**good(), "label_dice_mean": True}), json.dumps({**good(), "metal_obeyed_share_real": "x"}), "\ud800")),
    *(("assessment/measures.json", text) for text in (
        None, "{", "[]", lacking("nearest"), lacking("volumes_ml", "training", "LAA"), lacking("nps", "blood", "frequency_per_mm"),
        json.dumps({**measures(), "hu": {"blood": {"edges": [0, 10], "training": [0.1, 0.2]}}}),
        json.dumps({**measures(), "requested_volumes_ml": {k: [[1.0]] for k in KEYS}}))),
])  # fmt: skip
def test_missing_or_broken_numbers_are_refused_in_one_line_and_nothing_is_written(run: Path, name: str, text: str | None) -> None:
    path = run / name
    path.unlink() if text is None else path.write_bytes(text.encode("utf-8", "surrogatepass"))
    before = content(run)
    with pytest.raises(InputError, match=rf"{re.escape(str(path))} .*auricle assess") as refused:
        write_assessment(run)
    assert "\n" not in str(refused.value)
    assert content(run) == before


def test_a_damaged_image_is_named_and_nothing_is_written(run: Path) -> None:
    (run / "generate" / "images" / "generated-0-0001.nii.gz").write_bytes(b"no image")
    before = content(run)
    with pytest.raises(InputError, match=re.escape("generated-0-0001.nii.gz")):
        write_assessment(run)
    assert content(run) == before


def test_without_an_audit_nothing_is_said_of_copies(run: Path) -> None:
    assert "| copies among candidates | 2.0 % | at most 2 % | reached |" in change(run)
    assert "closest.png" in content(run)
    page = edit(run, lambda m: m.update(nearest=[]))
    assert "| copies among candidates | n/a | at most 2 % | n/a |" in page
    assert "No figure `closest.png`" in page
    assert "without an audit" in page
    # That of the earlier page is gone.
    assert set(content(run)) == FILES - {"closest.png"}


def test_what_was_not_measured_has_no_figure_and_the_page_says_so(run: Path) -> None:
    nothing = {"nps": {}, "hu": {t: {"edges": [0.0, 10.0]} for t in TISSUES}, "requested_volumes_ml": {k: [] for k in KEYS}}
    page = edit(run, lambda m: m.update(nothing))
    assert set(content(run)) == FILES - {"requested.png", "texture.png", "histograms.png"}
    assert [name for name in assessment.FIGURES if f"No figure `{name}.png`" in page] == ["requested", "texture", "histograms"]


@pytest.mark.parametrize(("gone", "left_out"), [
    (("cohort",), {"closest.png"}), (("generate",), {"closest.png"}), (("cohort", "generate"), {"closest.png", "pairs.png"}),
])  # fmt: skip
def test_parts_of_the_run_may_be_gone(run: Path, gone: tuple[str, ...], left_out: set[str]) -> None:
    (run / "autoencoder").mkdir()
    for name in gone:
        (run / name).rename(run / f"former-{name}")
    write_assessment(run)
    assert set(content(run)) == FILES - left_out


def test_a_case_outside_the_cohort_is_not_looked_for(run: Path) -> None:
    page = edit(run, lambda m: m.update(nearest=[{"id": "generated-0-0000", "case": "../../other", "score": 0.9}]))
    assert "| ../../other |" in page
    assert "closest.png" not in content(run)


@pytest.mark.parametrize("shift", [-3, 0, 4])
def test_the_nearest_case_is_cut_at_the_level_of_the_generated_pair(shift: int) -> None:
    label = np.zeros((12, 12, 16), np.uint8)
    for z in range(4, 12):
        label[1 : z - 2, 2:5, z] = 3
        label[1 : 13 - z, 7:9, z] = 8
    moved = np.roll(label, (3, 1, shift), (0, 1, 2))
    assert matching_slice(moved, label[..., 7]) == 7 + shift


def test_figures_take_names_in_any_script_and_tissues_that_are_missing() -> None:
    label = np.zeros((12, 10, 8), np.uint8)
    label[3:9, 3:8, 2:6] = 8
    image = np.where(label > 0, 600, -200).astype(np.int16)
    rows = [(Pair("$x_" + "long" * 20, image, label), Pair("患者\n1", image, label), 0.5)]
    picture = pixels(assessment_figures.closest(rows, None, (1.0, 1.0, 1.0)))
    mixed = 0.55 * np.array((110, 200, 100)) + 0.45 * 255
    green = np.abs(picture - mixed).max(axis=-1) <= 12
    quarters = np.array_split(green, 4, axis=1)
    assert [bool(q.mean() > 0.01) for q in quarters] == [False, True, False, True]
    dark = pixels(assessment_figures.texture({"blood": Curves([0.0, 0.1], {"generated": [1.0, 2.0]}), "fat": Curves([], {})}, "dark"))
    assert dark[0, 0].mean() < 60
    assert dark.std() > 5


def test_points_on_the_line_lie_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "png", lambda figure: drawn.append(figure) or b"")
    assessment_figures.requested({k: [(1.0, 1.0)] if k != "LV" else [] for k in KEYS}, {})
    for key, axis in zip(KEYS, drawn[0].axes, strict=True):
        assert axis.get_title().split("\n")[1] == ("not requested" if key == "LV" else "r = n/a, 1 pair")
        if key != "LV":
            assert axis.get_xlim() == axis.get_ylim()
            assert axis.get_xlim()[0] < 1.0 < axis.get_xlim()[1]
