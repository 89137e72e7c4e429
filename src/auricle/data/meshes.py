"""Surfaces of the structures as closed triangle meshes, for viewers and for printing.

Coordinates are DICOM's and ITK's: LPS, in mm, which 3D Slicer and ITK-SNAP assume of a mesh. NIfTI's are RAS: x and y change their sign.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core.anatomy import LABEL_COUNT, STRUCTURES
from auricle.core.errors import InputError
from auricle.data.nifti import saving

INSTALL = "pip install 'auricle[meshes]'"
SMOOTHING = 0.8
"""SD of the Gaussian over a mask, in voxels: takes the steps off and leaves what is a voxel wide."""
MARGIN = 4
"""Background voxels around a mask: as far as the Gaussian reaches, so that every surface closes."""
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_GLTF = np.array([[1.0, 0, 0, 0], [0, 0, 1.0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1000.0]]) / 1000
"""From LPS mm to glTF's meters: left is +x, superior +y, anterior +z, so that the patient stands upright and faces the viewer."""


def surfaces(label: NDArray[np.uint8], affine: NDArray[np.float64]) -> dict[str, Any]:
    """A closed mesh (`trimesh.Trimesh`, vertices in LPS mm, normals outward) of every structure that is there, by key.

    The surface is where the smoothed mask passes the value that as many voxels exceed as the mask holds, so that it encloses the mask's volume
    but for 1 to 3%; marching cubes of Lewiner et al. 2003.

    Args:
        label: label map [x, y, z].
        affine: voxel index to RAS mm.
    """
    to_lps = _LPS @ affine
    found = {}
    with _packages() as (measure, trimesh):
        for s, box in zip(STRUCTURES, ndimage.find_objects(label, LABEL_COUNT - 1), strict=True):
            if box is None:
                continue
            mask = np.pad(label[box] == s.id, MARGIN)
            soft = ndimage.gaussian_filter(mask.astype(np.float32), SMOOTHING, mode="constant")
            vertices, faces, _, _ = measure.marching_cubes(soft, _level(soft, int(mask.sum())), allow_degenerate=False)
            index = vertices + [b.start - MARGIN for b in box]
            mesh = trimesh.Trimesh(index @ to_lps[:3, :3].T + to_lps[:3, 3], faces, process=True)
            if mesh.volume < 0:
                mesh.invert()
            found[s.key] = mesh
    return found


def write_stl(folder: Path, meshes: dict[str, Any]) -> None:
    """Write each mesh as ``KEY.stl`` (binary, LPS mm; the header says so, as 3D Slicer reads it)."""
    for key, mesh in meshes.items():
        data = bytearray(mesh.export(file_type="stl"))
        data[:80] = f"auricle {key} SPACE=LPS UNIT=mm".encode("ascii").ljust(80)
        with saving(folder / f"{key}.stl") as temporary:
            temporary.write_bytes(bytes(data))


def write_glb(path: Path, meshes: dict[str, Any]) -> None:
    """Write all meshes as one scene of binary glTF: vertices in LPS mm, and a transform to glTF's meters and axes in each node."""
    with _packages() as (_, trimesh):
        scene = trimesh.Scene()
        for s in STRUCTURES:
            if s.key not in meshes:
                continue
            mesh = meshes[s.key].copy()
            material = trimesh.visual.material.PBRMaterial(name=s.key, baseColorFactor=[*s.color, 255], metallicFactor=0.0, roughnessFactor=0.8)
            mesh.visual = trimesh.visual.TextureVisuals(material=material)
            scene.add_geometry(mesh, node_name=s.key, geom_name=s.key, transform=_GLTF)
        data = scene.export(file_type="glb")
    with saving(path) as temporary:
        temporary.write_bytes(data)


def check_installed() -> None:
    """Raise `InputError` naming the packages where meshes cannot be made."""
    with _packages():
        pass


def _level(soft: NDArray[np.float32], count: int) -> float:
    """A value that `count` voxels exceed, in the middle between two voxels' values."""
    values = np.partition(soft.ravel(), -count - 1)
    above, below = float(values[-count:].min()), float(values[-count - 1])
    return (above + below) / 2 if above > below else float(np.nextafter(np.float32(above), np.float32(0)))


@contextmanager
def _packages() -> Iterator[tuple[Any, Any]]:
    """Yield `skimage.measure` and `trimesh`, imported when first needed."""
    try:
        import trimesh
        import trimesh.visual
        from skimage import measure
    except ImportError:
        raise InputError(f"--format stl and glb need scikit-image and trimesh; install them with: {INSTALL}") from None
    yield measure, trimesh
