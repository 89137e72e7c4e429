"""Meshes: closed, in the right place and of the right size, whatever the voxels."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from auricle.core.anatomy import ID, STRUCTURES
from auricle.core.errors import InputError
from auricle.data.meshes import check_installed, surfaces, write_glb, write_stl
from auricle.phantom import virtual_patient

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("skimage")

AFFINE = np.array([[0.0, 0.8, 0.0, 5.0], [-0.7, 0.0, 0.0, -30.0], [0.0, 0.0, 1.5, 100.0], [0.0, 0.0, 0.0, 1.0]])
"""Axes turned and one flipped."""


def ball(shape: tuple[int, int, int], affine: NDArray[np.float64], radius: float) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A left ventricle that is a ball in the grid's middle, and its center (RAS mm)."""
    center = (affine @ [*((np.array(shape) - 1) / 2), 1])[:3]
    at = np.einsum("ij,jxyz->ixyz", affine[:3, :3], np.indices(shape).astype(float)) + affine[:3, 3].reshape(3, 1, 1, 1)
    near = np.linalg.norm(at - center.reshape(3, 1, 1, 1), axis=0) <= radius
    return np.where(near, np.uint8(ID["LV"]), np.uint8(0)), center


def test_a_ball_is_closed_in_place_and_of_its_size() -> None:
    label, center = ball((60, 50, 30), AFFINE, 14.0)
    (mesh,) = surfaces(label, AFFINE).values()
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume / 1000 == pytest.approx(4 / 3 * np.pi * 1.4**3, rel=0.03)
    assert np.allclose(mesh.center_mass, center * [-1, -1, 1], atol=0.1)
    assert np.allclose(np.linalg.norm(mesh.vertices - mesh.center_mass, axis=1), 14.0, atol=1.0)


@settings(deadline=None, max_examples=25)
@given(
    size=st.tuples(*[st.integers(1, 6)] * 3), seed=st.integers(0, 2**16), spacing=st.tuples(*[st.floats(0.3, 3.0)] * 3),
    signs=st.tuples(*[st.sampled_from((-1, 1))] * 3),
)  # fmt: skip
def test_any_mask_gives_closed_surfaces_that_face_outward(size: Any, seed: int, spacing: Any, signs: Any) -> None:
    """Single voxels, touching corners and masks at the grid's border too."""
    label = np.random.default_rng(seed).integers(0, 3, size).astype(np.uint8)
    affine = np.diag([*(np.array(spacing) * signs), 1.0])
    meshes = surfaces(label, affine)
    assert set(meshes) == {s.key for s in STRUCTURES if (label == s.id).any()}
    for mesh in meshes.values():
        assert mesh.is_watertight
        assert mesh.volume > 0


def test_a_heart_keeps_its_volumes(tmp_path: Path) -> None:
    case = virtual_patient(3, 1, (72, 68, 64), (2.0, 2.0, 2.2), pathology=False)
    assert case.label is not None
    meshes = surfaces(case.label, case.affine)
    for key, mesh in meshes.items():
        assert mesh.is_watertight, key
        assert mesh.volume / 1000 == pytest.approx((case.label == ID[key]).sum() * case.voxel_ml, rel=0.05), key
    write_stl(tmp_path / "stl", meshes)
    write_glb(tmp_path / "heart.glb", meshes)
    assert sorted(p.stem for p in (tmp_path / "stl").iterdir()) == sorted(meshes)
    assert (tmp_path / "stl" / "LV.stl").read_bytes()[:80].startswith(b"auricle LV SPACE=LPS")
    read = trimesh.load(tmp_path / "stl" / "LV.stl")
    assert read.is_watertight
    assert np.allclose(read.bounds, meshes["LV"].bounds, atol=1e-3)
    scene = trimesh.load(tmp_path / "heart.glb")
    assert set(scene.geometry) == set(meshes)
    assert np.allclose(scene.geometry["LV"].bounds, meshes["LV"].bounds, atol=1e-3)
    # In the scene, meters: superior is up, anterior toward the viewer, the patient's left to the right.
    place = {k: trimesh.transform_points(m.center_mass[None], scene.graph[k][0])[0] for k, m in meshes.items()}
    assert place["AO"][1] > place["LV"][1]
    assert place["RV"][2] > place["LA"][2]
    assert place["LV"][0] > place["RA"][0]
    assert np.ptp([p[1] for p in place.values()]) < 0.3


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(InputError, match=r"pip install 'auricle\[meshes\]'"):
        check_installed()
