"""What a check shows: the worst first, every refusal, and a picture of every case."""

import io
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
from rich.console import Console

from auricle.core.anatomy import KEYS, STRUCTURES
from auricle.report import check_page
from auricle.report.check_page import terminal, write_sheets
from auricle.stages.check import fingerprint


def finding(severity: str, text: str = "something", code: str = "anatomy", **more: Any) -> dict[str, Any]:
    return {"code": code, "severity": severity, "text": text, **more}


def case(name: str, verdict: str = "clean", findings: list[dict[str, Any]] | None = None, picture: str | None = None) -> dict[str, Any]:
    return {
        "id": name, "patient": None, "verdict": verdict, "image": f"{name}.nii.gz", "label": f"{name}_label.nii.gz", "bytes": 5,
        "shape": [20, 30, 40], "spacing_mm": [1.0, 1.0, 0.5], "axes": "LPS", "hu": {"low": -1024.0, "high": 900.0},
        "structures": {k: {"ml": 1.0} for k in KEYS}, "missing": [], "picture": picture, "findings": findings or [],
    }  # fmt: skip


def result(cases: list[dict[str, Any]], findings: list[dict[str, Any]] | None = None, quick: bool = False) -> dict[str, Any]:
    count = {v: sum(c["verdict"] == v for c in cases) for v in ("refused", "notice", "clean")}
    structures = {k: {"present": len(cases), "missing": 0, "cut": 0} for k in KEYS}
    return {
        "settings": {"quick": quick}, "findings": findings or [], "cases": cases, "needs": None,
        "summary": {"cases": len(cases), "labeled": len(cases), "patients": len(cases), **count, "bytes": 2**30, "empty_labels": 0,
                    "structures": structures, "fingerprint": fingerprint(cases)},
    }  # fmt: skip


def shown(of: dict[str, Any], width: int = 120) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(terminal(of), soft_wrap=True)
    return text.getvalue()


def test_worst_first_and_every_refusal() -> None:
    refusals = [finding("refused", f"problem {i}") for i in range(30)]
    cases = [case("good"), case("odd", "notice", [finding("notice")]), case("bad", "refused", refusals), case("twice", "refused")]
    text = shown(result(cases, [finding("refused", "twice and twice", cases=["twice"])]))
    lines = text.splitlines()
    order = [next(i for i, line in enumerate(lines) if line.strip().startswith(n)) for n in ("bad", "twice", "odd", "good")]
    assert order == sorted(order)
    assert all(f"refused  bad: problem {i}\n" in text for i in range(30))
    assert "refused  twice and twice" in text
    assert "4 cases, 4 labeled, 4 patients: 2 refused, 1 with notices, 1 clean; 1.00 GiB on disk" in text


def test_many_cases_and_many_notices_are_counted() -> None:
    cases = [case(f"c{i:03d}", "notice", [finding("notice", f"odd {i}"), finding("notice", "thick", "spacing")]) for i in range(100)]
    text = shown(result(cases))
    assert "60 more cases (60 notice)" in text
    assert text.count("notice  c") == 20
    assert text.count("90 more of this kind") == 2


def test_a_case_with_many_notices_hides_no_other() -> None:
    text = shown(result([case("many", "notice", [finding("notice", f"odd {i}") for i in range(30)]), case("one", "notice", [finding("notice")])]))
    assert "notice  one: something" in text
    assert text.count("notice  many: odd") == 9


def test_a_short_name_is_not_taken_for_a_number() -> None:
    cases = [case("1", "notice", [finding("notice", "MYO has 310.2 mL, outside 50 to 300"), finding("notice", "1.nii.gz: is odd")])]
    text = shown(result(cases))
    assert "notice  1: MYO has 310.2 mL" in text
    assert "notice  1.nii.gz: is odd" in text


def test_lines_are_short_enough_for_a_terminal() -> None:
    long = case("a-very-long-name-of-a-case-that-nobody-can-read", "notice", [finding("notice")])
    assert max(map(len, shown(result([long]), 80).splitlines()[:5])) <= 80


def pictures(out: Path, name: str) -> str:
    """Saved slices of a box of LV, anterior of the middle and near the top."""
    image = np.full((20, 30, 40), -100, np.int16)
    label = np.zeros(image.shape, np.uint8)
    label[8:12, 20:28, 30:38] = 3
    (out / "cases").mkdir(exist_ok=True)
    np.savez(
        out / f"cases/{name}.npz", spacing=np.array([2.0, 2.0, 2.0]), axial=image[:, :, 34], axial_label=label[:, :, 34],
        coronal=image[:, 24], coronal_label=label[:, 24],
    )  # fmt: skip
    return f"cases/{name}.npz"


def test_sheets_show_every_case_in_pages(tmp_path: Path) -> None:
    cases = [case(f"c{i:02d}", picture=pictures(tmp_path, f"c{i:02d}")) for i in range(32)]
    cases.append(case("bad", "refused", [finding("refused")]))
    paths = write_sheets(result(cases), tmp_path)
    assert [p.name for p in paths] == ["contact-sheet-1.png", "contact-sheet-2.png"]
    first, second = (matplotlib.image.imread(p)[..., :3] for p in paths)
    assert first.shape[0] > 3 * second.shape[0]
    assert first.shape[1] == second.shape[1]
    red = np.array(next(s.color for s in STRUCTURES if s.key == "LV")) / 255
    # Colored by its structure, in the upper part of both pictures: anterior and superior are up.
    tinted = np.abs(first - first.mean(axis=2, keepdims=True)).max(axis=2) > 0.1
    top, left = 46 + 28, 0
    for tile in (0, check_page.TILE):
        seen = tinted[top : top + check_page.TILE, left + tile + 3 : left + tile + check_page.TILE - 3]
        rows = np.flatnonzero(seen.any(axis=1))
        assert rows.size
        assert rows.max() < check_page.TILE / 2
        pixel = first[top + rows.mean().astype(int), left + tile + check_page.TILE // 2]
        assert pixel.argmax() == red.argmax() == 0


def test_no_sheets_of_headers(tmp_path: Path) -> None:
    assert write_sheets(result([case("a"), case("b", "refused")], quick=True), tmp_path) == []
    assert list(tmp_path.iterdir()) == []
