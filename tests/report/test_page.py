"""The page and summary.json of whole, partial and hostile run folders."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from auricle.core.anatomy import KEYS
from auricle.core.errors import InputError
from auricle.report.page import write_report
from auricle.report.tables import arm_blocks

LOADING = {"src", "srcset", "href", "data", "poster", "action"}
VOID = {"meta", "img", "source", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags, what they load, images' alt texts and visible text; refuses tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.alts: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in LOADING]
        self.alts += [dict(attrs).get("alt") or ""] if tag == "img" else []
        self._open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(root: Path, peak: float | None = None) -> tuple[Page, dict]:
    path = write_report(root, peak)
    assert path == root / "report.html"
    return opened(root)


def opened(root: Path) -> tuple[Page, dict]:
    return Page((root / "report.html").read_text(encoding="utf-8")), json.loads((root / "summary.json").read_text())


def test_summary_holds_the_numbers_of_a_whole_run(written: Path, fake: ModuleType) -> None:
    _, summary = opened(written)
    assert list(summary) == ["autoencoder", "generate", "arms", "seconds", "peak_gib"]
    assert summary["autoencoder"] == {
        "label_dice": {"mean": 0.95, **dict.fromkeys(KEYS, 0.95), "LAA": 0.88},
        "image_rmse_hu": 42.5, "impossible_boundary_share": 0.01, "speck_share": 0.001,
    }  # fmt: skip
    # Training volumes: (4 + 6) / 2 rows of four voxels; generated ones: (5 + 10) / 2 rows.
    ratio = pytest.approx(dict.fromkeys(KEYS, 1.5))
    assert summary["generate"] == {"complete_share": 0.75, "speck_share": 0.002, "volume_ratio": ratio}
    assert list(summary["arms"]) == ["baseline", "medical-diffusion", "ours"]
    ours = summary["arms"]["ours"]
    assert set(ours) == {"dice", "hd95_mm", "nsd", "missed", "cases"}
    assert ours["dice"]["mean"] == pytest.approx(0.83 + 0.02 - 0.2 / 8)
    assert ours["dice"]["LAA"] == pytest.approx(0.65)
    assert ours["hd95_mm"]["LAA"] is None
    assert summary["arms"]["baseline"]["missed"]["LAA"] == 1
    assert summary["seconds"] == {
        "cohort": 10.0, "autoencoder": 30.5, "diffusion": 5.0, "generate": 4.0, "pretrain": 5.0,
        **{f"finetune/{a}": 20.0 for a in fake.ARMS}, **{f"evaluate/{a}": 1.0 for a in fake.ARMS}, "total": 117.5,
    }  # fmt: skip
    assert summary["peak_gib"] == 3.25


def test_page_says_the_result_in_words(written: Path) -> None:
    page, _ = opened(written)
    assert "Ours has the highest mean Dice: 0.825 on 3 test cases." in page.text
    assert "Ours is 3.0 Dice points above the baseline (95% confidence interval +3.0 to +3.0)." in page.text
    assert "Medical diffusion is 2.0 Dice points below the baseline" in page.text
    assert "did worse" in page.text
    assert "One training seed and 3 test cases cannot settle" in page.text
    assert "2 labeled cases + 6 generated pairs, weights from scratch" in page.text


def test_sections_come_in_order_with_described_figures(written: Path, fake: ModuleType) -> None:
    page, _ = opened(written)
    headings = ["How well each arm", "What was learned from", "Are generated hearts", "How training went", "What pre-training", "One test case",
                "What the autoencoder", "Where these"]  # fmt: skip
    assert "123 HU inside the blocks and 17 HU outside" in page.text
    places = [page.text.index(h) for h in headings]
    assert places == sorted(places)
    assert len(page.alts) == 5
    assert all(len(alt) > 40 for alt in page.alts)
    assert page.tags.count("figcaption") == page.tags.count("figure") == 5
    assert page.tags.count("caption") == page.tags.count("table")
    assert page.tags.count("details") == len(fake.ARMS) * 2 + 5


def test_page_needs_nothing_else(written: Path) -> None:
    page, _ = opened(written)
    assert page.loads
    assert all(re.match(r"data:image/png;base64,[A-Za-z0-9+/]{1000,}={0,2}$", u) for u in page.loads)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    html = (written / "report.html").read_text()
    assert "url(" not in html
    assert "@import" not in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_best_scores_are_bold_and_ties_are_not(written: Path) -> None:
    html = (written / "report.html").read_text()
    dice = html[html.index("Dice (higher is better)") : html.index("HD95 in mm (lower")]
    assert re.findall(r"<strong>([\d.]+)</strong>", dice) == ["0.825", *["0.850"] * 7, "0.650"]
    distances = html[html.index("HD95 in mm (lower") : html.index("Missed structures")]
    assert "<strong>" not in distances
    assert distances.count(">n/a<") == 3


@pytest.mark.parametrize(("source", "said"), [("virtual patient", True), ("scanner", False)])
def test_virtual_patients_are_called_virtual(partial: Path, source: str, said: bool, fake: ModuleType) -> None:
    fake.write_cohort(partial, source)
    page, _ = read(partial)
    assert ("Every patient in this run is virtual" in page.text) is said
    assert ("Research only." in page.text) is not said
    assert f"colored structures: {'virtual patients' if said else 'patients'} train-0" in page.alts[0]


def test_names_that_hold_markup_are_shown_as_text(whole: Path, fake: ModuleType) -> None:
    # A slash cannot be part of a file's name.
    name = "<script>alert(1)<!--"
    fake.write_cohort(whole, ids=(name,))
    for arm, level in fake.ARMS.items():
        fake.write_arm(whole, arm, level, ids=(name,))
    run = {"recipe": fake.SCRIPT, "command": ["auricle", '"><img src=http://x>'], "machine": {"cpu": "<b>&"}}
    fake.write(whole / "run.json", run)
    config = whole / "cohort" / "config.json"
    fake.write(config, {"stage": "cohort", "config": {"path": "</pre>" + fake.SCRIPT}, "inputs": {}})
    page, _ = read(whole)
    assert "script" not in page.tags
    assert len(page.alts) == 5
    assert fake.SCRIPT in page.text
    assert f"Case {name}" in page.text
    assert any(name in alt for alt in page.alts)


def test_partial_run_leaves_out_what_is_missing(partial: Path) -> None:
    page, summary = read(partial)
    assert set(summary) == {"autoencoder", "seconds"}
    assert summary["seconds"]["total"] == 40.5
    assert "No arm has been evaluated yet." in page.text
    assert "n/a" not in page.text
    assert "How well each arm" not in page.text
    assert len(page.alts) == 2


def test_a_stage_that_still_runs_is_listed_as_unfinished(tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    page, summary = read(tmp_path)
    assert summary == {}
    assert "cohort not finished" in page.text


@pytest.mark.parametrize("missing", [
    "cohort", "generate", "finetune", "evaluate/baseline/cases.csv", "evaluate/ours/predictions", "run.json",
])  # fmt: skip
def test_any_stage_may_be_missing(whole: Path, missing: str) -> None:
    (whole / missing).rename(whole / "elsewhere")
    page, _ = read(whole)
    assert "Ours has the highest mean Dice" in page.text


def test_one_arm_has_nothing_to_be_compared_with(partial: Path, fake: ModuleType) -> None:
    fake.write_arm(partial, "baseline", 0.8)
    page, _ = read(partial)
    assert "there is no other arm to compare it with" in page.text
    assert "cannot settle" not in page.text


def test_ours_plus_is_shown_beside_its_control_too(whole: Path, fake: ModuleType) -> None:
    """Trained twice, it is no fair match for arms that are trained once; the first trainings count in the time."""
    before, _ = read(whole)
    assert "trained twice" not in before.text
    for arm, level in (("longer-baseline", 0.88), ("ours-plus", 0.87)):
        fake.write_arm(whole, arm, level)
    for stage in ("varied", "first-varied", "first-real"):
        fake.write_stage(whole, stage, 100.0)
    page, summary = read(whole)
    assert list(summary["arms"]) == [*fake.ARMS, "longer-baseline", "ours-plus"]
    assert "Ours-plus is 7.0 Dice points above the baseline (" in page.text
    assert "Ours-plus is 1.0 Dice points below the varied baseline trained twice (" in page.text
    assert "Ours is 5.0 Dice points below" not in page.text
    table = page.text[page.text.index("Difference to the varied baseline trained twice"):]
    assert table.index("Ours −5.0") < table.index("Ours-plus −1.0") < table.index("What was learned from")
    assert summary["seconds"]["total"] == 117.5 + 300.0 + 42.0


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no stage of a run"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "content"), [
    ("generate/pairs.json", '{"size": ['), ("evaluate/ours/cases.csv", "case,structure,dice\na,MYO,high\n"),
    ("cohort/labels/train-0.npy", "no array"), ("autoencoder/assessment.json", "[]"),
])  # fmt: skip
def test_a_damaged_file_is_named_and_the_old_page_stays(whole: Path, name: str, content: str) -> None:
    before = write_report(whole).read_bytes()
    (whole / name).write_text(content)
    with pytest.raises(InputError, match=re.escape(Path(name).name)):
        write_report(whole)
    assert (whole / "report.html").read_bytes() == before


def test_writing_again_gives_the_same_bytes(partial: Path) -> None:
    first = write_report(partial).read_bytes()
    assert write_report(partial).read_bytes() == first


def test_an_arm_that_misses_more_is_not_the_best_in_distance() -> None:
    """Missing the hard cases leaves the easy ones to be averaged."""
    def arm(near: float, missed: int) -> dict:
        return {"dice": {}, "hd95_mm": {"mean": near, "LAA": near}, "missed": {"LAA": missed}}

    _, distance, _ = arm_blocks({"baseline": arm(2.0, 3), "ours": arm(5.0, 0), "medical-diffusion": arm(6.0, 0)})
    marked = {name: [cell.text for cell in cells if cell.best] for name, cells in distance.rows}
    assert marked == {"Baseline": [], "Ours": ["5.0", "5.0"], "Medical diffusion": []}
