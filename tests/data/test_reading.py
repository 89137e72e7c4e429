"""Any scan becomes a case in HU, or is refused with the range found."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auricle.core.errors import InputError
from auricle.data.nifti import write_nifti
from auricle.data.reading import clean_hu, read_scan


def scan(shape: tuple[int, int, int] = (6, 7, 8)) -> np.ndarray:
    return np.random.default_rng(0).integers(-1024, 1200, shape).astype(np.int16)


def test_own_grid_is_kept(tmp_path: Path) -> None:
    affine = np.array([[0, 0, -2.0, 4], [-1.0, 0, 0, 5], [0, 1.5, 0, 6], [0, 0, 0, 1]])
    write_nifti(tmp_path / "p1.nii.gz", scan(), affine, dtype=np.int16)
    case, notices = read_scan(tmp_path / "p1.nii.gz")
    assert case.id == "p1"
    assert np.array_equal(case.image, scan())
    assert np.array_equal(case.affine, affine)
    assert notices == []


def test_float_that_is_whole_becomes_int16(tmp_path: Path) -> None:
    image, _ = clean_hu(scan().astype(np.float64), "x")
    assert image.dtype == np.int16
    assert np.array_equal(image, scan())
    # Rounding errors of a float64 file are no fractions, and are not cut off toward zero.
    image, _ = clean_hu(scan().astype(np.float64) - 1e-9, "x")
    assert image.dtype == np.int16
    assert np.array_equal(image, scan())
    image, _ = clean_hu(scan() + np.float32(0.25), "x")
    assert image.dtype == np.float32


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(0, 255, 216),
        np.linspace(0, 4095, 216),
        np.linspace(-1, 1, 216),
        np.linspace(0, 1, 216),
        np.zeros(216),
        np.r_[np.full(16, -2048), np.linspace(0, 4095, 200)],
        np.r_[np.full(100, -37), np.linspace(0, 4095, 116)],  # as splines fall below 0 beside edges
    ],
)
def test_values_that_are_not_hu(values: Any) -> None:
    image = values.reshape(6, 6, 6)
    with pytest.raises(InputError, match=rf"{max(values):g} are not HU.*--not-hu"):
        clean_hu(image, "x")
    out, notices = clean_hu(image, "x", not_hu=True)
    assert np.isclose(out.max(), values.max())
    assert "as you asked" in notices[0]


def test_a_view_without_air_passes() -> None:
    clean_hu(np.linspace(-110, 400, 216).reshape(6, 6, 6), "x")


def test_plain_hu_pass() -> None:
    assert clean_hu(scan(), "x")[1] == []


@pytest.mark.parametrize("pad", [-2048, -3024, -2000, -32768])
def test_padding_is_outside(pad: int) -> None:
    image = scan()
    image[0] = pad
    out, notices = clean_hu(image, "x")
    assert (out[0] == -1024).all()
    assert np.array_equal(out[1:], scan()[1:])
    assert "56 voxels" in notices[0]


def test_what_is_no_scan(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "e.dcm").touch()
    for name, message in (("a.txt", "neither a volume"), ("e.dcm", "0 bytes"), ("none.nii", "no such file")):
        with pytest.raises(InputError, match=message):
            read_scan(tmp_path / name)


def test_real_heart() -> None:
    path = Path(__file__).parents[2].parent / "shared" / "data" / "lidc0001" / "ct.nii.gz"
    if not path.is_file():
        pytest.skip("real data not present: lidc0001")
    case, notices = read_scan(path)
    assert case.image.shape == (109, 97, 95)
    assert case.image.min() == -1024
    assert notices == []
