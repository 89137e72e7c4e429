"""Outputs beside a label map: what they say is true of the label map."""

import csv
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from auricle.core.anatomy import STRUCTURES
from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.data.outputs import check_output, volumes, write_color_table, write_overlays, write_preview, write_volumes_csv
from auricle.data.preprocess import AIR_HU

AFFINE = np.diag([2.0, 2.0, 2.5, 1.0])


def scene(shape: tuple[int, int, int] = (40, 30, 24)) -> tuple[np.ndarray, np.ndarray]:
    """Air with a body; LV in the middle, AO up to the upper face."""
    image, label = np.full(shape, AIR_HU, np.int16), np.zeros(shape, np.uint8)
    image[4:-4, 4:-4] = 40
    label[15:25, 10:20, 5:15] = 3
    label[18:22, 14:18, 15:] = 6
    image[label > 0] = 300
    return image, label


def test_color_table(tmp_path: Path) -> None:
    write_color_table(tmp_path / "c.ctbl")
    rows = [line.split() for line in (tmp_path / "c.ctbl").read_text().splitlines() if not line.startswith("#")]
    assert [int(r[0]) for r in rows] == list(range(9))
    assert all(len(r) == 6 for r in rows)
    for row, s in zip(rows[1:], STRUCTURES, strict=True):
        assert (row[1].replace("_", " "), tuple(map(int, row[2:5])), row[5]) == (s.name, s.color, "255")


def test_volumes(tmp_path: Path) -> None:
    image, label = scene()
    rows = {r.structure: r for r in volumes(label, AFFINE, image)}
    assert rows["LV"].volume_ml == pytest.approx(10.0)
    assert rows["LV"].mean_hu == pytest.approx(300)
    assert not rows["LV"].touches_border
    assert rows["AO"].touches_border
    assert rows["PA"].volume_ml == 0
    assert np.isnan(rows["PA"].mean_hu)
    write_volumes_csv(tmp_path / "v.csv", list(rows.values()))
    with (tmp_path / "v.csv").open(newline="") as file:
        table = {r["structure"]: r for r in csv.DictReader(file)}
    assert list(table) == [s.key for s in STRUCTURES]
    here = {"structure": "LV", "volume_ml": "10.00", "mean_hu": "300.0", "touches_border": "no", "partial": "no", "confidence": ""}
    assert table["LV"] == here
    assert table["PA"]["mean_hu"] == ""


def middle(picture: np.ndarray, color: tuple[int, ...]) -> np.ndarray:
    """Mean place (row, column) of the pixels whose hue is closest to a structure's, within the picture's left third."""
    part = picture[: int(picture.shape[0] * 0.85), : picture.shape[1] // 3, :3]
    tint = part - part.mean(axis=2, keepdims=True)
    want = np.array(color) / 255
    want = want - want.mean()
    return np.argwhere((tint @ want) > 0.8 * (want @ want)).mean(axis=0)


def test_preview_shows_the_patients_right_on_the_left(tmp_path: Path) -> None:
    """Whatever the axes of the scan: right is left, anterior is up in the axial picture."""
    image, _ = scene()
    label = np.zeros(image.shape, np.uint8)
    label[26:32, 12:18, 8:16], label[8:14, 12:18, 8:16], label[18:22, 20:25, 8:16] = 4, 3, 5
    case = Case("a", image, AFFINE, label)
    flipped = AFFINE @ np.array([[-1, 0, 0, 39], [0, -1, 0, 29], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    for name, scan in (("a", case), ("b", Case("b", image[::-1, ::-1], flipped, label[::-1, ::-1]))):
        assert scan.label is not None
        write_preview(tmp_path / f"{name}.png", scan, scan.label)
        picture = imread(tmp_path / f"{name}.png")
        places = {s.key: middle(picture, s.color) for s in STRUCTURES if s.key in ("RA", "LV", "RV")}
        assert places["RA"][1] < places["RV"][1] < places["LV"][1]
        assert places["RV"][0] < min(places["RA"][0], places["LV"][0])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_pictures_of_a_wide_scan_show_the_heart(tmp_path: Path) -> None:
    """What lies far from the labels is left out, so that a small heart in a wide scan fills the picture as much as in a narrow one."""
    sizes = []
    for margin in (20, 60):
        image = np.full((40 + 2 * margin,) * 3, 40.0, np.float32)
        label = np.zeros(image.shape, np.uint8)
        label[margin + 5 : margin + 35, margin + 5 : margin + 35, margin + 5 : margin + 35] = 3
        case = Case("a", image, np.diag([2.0, 2.0, 2.0, 1.0]), label)
        write_preview(tmp_path / f"{margin}.png", case, label)
        write_overlays(tmp_path / str(margin), case, label)
        overlays = sorted((tmp_path / str(margin)).iterdir())
        assert len(overlays) == 24
        color = np.array(STRUCTURES[2].color) / 255
        reds = [np.abs(imread(p)[..., :3] - color).sum(-1) < 0.3 for p in (tmp_path / f"{margin}.png", overlays[0])]
        sizes.append([int(r.sum()) for r in reds])
    assert sizes[0][0] == pytest.approx(sizes[1][0], rel=0.02)
    assert sizes[0][1] == pytest.approx(sizes[1][1], rel=0.02)
    assert min(sizes[0]) > 50


def test_preview_without_a_heart(tmp_path: Path) -> None:
    image, label = scene()
    write_preview(tmp_path / "a.png", Case("a", image, AFFINE), label * 0)
    assert imread(tmp_path / "a.png").shape[1] > 1000
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_output_is_refused_before_computing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(InputError, match=r"exists already.*--overwrite"):
        check_output(tmp_path / "a")
    check_output(tmp_path / "a", overwrite=True)
    check_output(tmp_path / "new" / "deeper" / "b")
    with pytest.raises(InputError, match="MiB are free"):
        check_output(tmp_path / "b", size=2**60)
    with pytest.raises(InputError, match="not a writable folder"):
        check_output(tmp_path / "a" / "b")
