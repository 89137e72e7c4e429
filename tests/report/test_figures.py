"""Figures are pictures of what they were given, and slices lie as a radiologist expects."""

import io

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from auricle.core.anatomy import ID, KEYS, STRUCTURES
from auricle.report import figures, slices
from auricle.report.figures import Line, Panel
from auricle.report.reading import Pair


def pixels(data: bytes) -> np.ndarray:
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def ball(center: tuple[int, int, int], label: int = 8) -> np.ndarray:
    grid = np.indices((24, 20, 16))
    inside = sum((g - c) ** 2 for g, c in zip(grid, center, strict=True)) <= 9
    return (inside * label).astype(np.uint8)


def share_of(picture: np.ndarray, color: tuple[int, int, int], tolerance: int = 12) -> float:
    return float((np.abs(picture - color).max(axis=-1) <= tolerance).mean())


def test_axial_slices_show_anterior_up_and_the_right_on_the_left() -> None:
    volume = np.zeros((4, 5, 6))
    volume[-1, -1, :] = 1  # most right and most anterior
    volume[0, -1, :] = 2  # most left and most anterior
    picture = slices.cut(volume, "axial", 2)
    assert picture.shape == (5, 4)
    assert (picture[0, 0], picture[0, -1]) == (1, 2)


def test_coronal_and_sagittal_slices_show_superior_up() -> None:
    volume = np.zeros((4, 5, 6))
    volume[-1, -1, -1] = 1  # right, anterior, superior
    assert slices.cut(volume, "coronal", 4)[0, 0] == 1
    assert slices.cut(volume, "sagittal", 3)[0, 0] == 1
    assert slices.cut(volume, "coronal", 4).shape == (6, 4)
    assert slices.cut(volume, "sagittal", 3).shape == (6, 5)


def test_pixels_keep_the_proportions_of_the_patient() -> None:
    spacing = (1.0, 2.0, 4.0)
    assert [slices.aspect(spacing, p) for p in slices.PLANES] == [2.0, 4.0, 2.0]


@pytest.mark.parametrize("plane", slices.PLANES)
def test_the_slice_shown_holds_the_appendage(plane: slices.Plane) -> None:
    label = ball((6, 5, 4)) + ball((16, 14, 12), ID["LV"])
    index = slices.informative_slice(label, plane)
    assert (slices.cut(label, plane, index) == 8).sum() == 29
    assert slices.informative_slice(np.zeros_like(label), plane) == label.shape[slices.NORMAL[plane]] // 2


def test_pairs_show_ct_and_colors_of_every_group() -> None:
    label = ball((12, 10, 8))
    pair = Pair("a", np.where(label > 0, 600, -200).astype(np.int16), label)
    one, two = (pixels(figures.pairs([("Real", [pair])] * n, (1.0, 1.0, 1.0))) for n in (1, 2))
    assert two.shape[1] == pytest.approx(2 * one.shape[1], abs=2)
    assert one.std() > 20
    # White CT under 55 % of the appendage's color.
    mixed = tuple(round(0.55 * c + 0.45 * 255) for c in STRUCTURES[7].color)
    assert share_of(one, mixed) > 0.01
    assert share_of(one, (255, 255, 255)) > 0.01


def test_outlines_of_each_prediction_have_its_structures_color() -> None:
    reference = ball((12, 10, 8), ID["LV"])
    image = np.full(reference.shape, -200, np.int16)
    predictions = {"A": ball((12, 10, 8), ID["LAA"]), "$x_": np.zeros_like(reference)}
    picture = pixels(figures.segmentation(image, reference, predictions, (1.0, 1.0, 1.0)))
    thirds = [picture[:, round(i * picture.shape[1] / 3) : round((i + 1) * picture.shape[1] / 3)] for i in range(3)]
    shares = [share_of(t, STRUCTURES[7].color, 40) for t in thirds]
    assert shares[1] > 0.001
    assert shares[0] == shares[2] == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_charts_have_ink_on_the_paper_of_their_scheme(theme: figures.Theme) -> None:
    numbers = {k: [10.0, 12.0, 15.0] for k in KEYS}
    volumes = pixels(figures.volumes(numbers, {**numbers, "LAA": []}, ("training", "generated"), theme))
    curves = pixels(figures.curves([Panel("loss", [Line("training", [1, 2], [100.0, 1.0]), Line("one", [2], [3.0])])] * 4, theme))
    for picture in (volumes, curves):
        assert picture.std() > 5
        assert bool(picture[0, 0].mean() > 200) == (theme == "light")


def test_drawing_leaves_no_settings_and_gives_the_same_bytes_again() -> None:
    before = dict(mpl.rcParams)
    panels = [Panel("Dice", [Line("ours", [1, 2, 3], [0.1, 0.5, 0.7])], share=True)]
    assert figures.curves(panels, "dark") == figures.curves(panels, "dark")
    assert dict(mpl.rcParams) == before
