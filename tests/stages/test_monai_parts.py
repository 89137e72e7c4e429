"""The parts of a MONAI bundle do together what `auricle segment` does, whoever read the scan and on which grid."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, decollate_batch
from monai.transforms import Compose, LoadImage
from numpy.typing import NDArray

from auricle.core.case import Case
from auricle.core.errors import InputError
from auricle.data.nifti import write_nifti
from auricle.data.preprocess import ModelGrid
from auricle.phantom import virtual_patient
from auricle.stages import segment
from auricle.stages.finetune import Trained
from auricle.stages.monai_parts import LookTwice, ReadScan, ToModelGrid, ToScan, scans
from auricle.stages.pairs import Grid

GRID = ModelGrid((32, 32, 32), (5.0, 5.0, 5.0))
LEVELS = np.array([-1000, 100, 200, 300, 400, 500, 600, 700, 800], np.int16)


class Brightness(torch.nn.Module):
    """Labels by brightness, so that where a label lies is known."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(4000.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = torch.tensor(LEVELS / 1000, dtype=torch.float32)[None, :, None, None, None]
        return -self.scale * (x - levels).square()


@pytest.fixture
def scan(tmp_path: Path) -> tuple[Path, Case]:
    """A painted virtual patient on an oblique grid with its first axis running left, finer than the model's and larger than its window."""
    patient = virtual_patient(0, 1, (80, 60, 56), (2.5, 2.5, 3.0), sex="M", pathology=False)
    assert patient.label is not None
    turn = np.eye(4)
    turn[:2, :2] = [[0.96, -0.28], [0.28, 0.96]]
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirror[0, 3] = 79
    case = replace(patient, image=LEVELS[patient.label][::-1], affine=turn @ patient.affine @ mirror, label=None)
    path = tmp_path / "scans" / "one.nii.gz"
    write_nifti(path, case.image, case.affine, dtype=np.int16)
    return path, case


def label_of(read: object, path: Path, window: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """As a bundle's evaluator joins the parts: collated, through the inferer, decollated."""
    grid = {"size": GRID.size, "spacing": GRID.spacing}
    data = Dataset([{"image": str(path)}], Compose([read, ToModelGrid(**grid)]))
    batch = next(iter(DataLoader(data, batch_size=1)))
    batch["pred"] = LookTwice(**grid, window=window)(batch["image"], Brightness())
    (item,) = decollate_batch(batch)
    found = ToScan(**grid)(item)["pred"]
    assert found.dtype == torch.uint8
    return found[0].numpy(), found.affine.numpy()


@pytest.mark.parametrize("window", [GRID.size, (16, 24, 32)])
def test_the_label_map_is_that_of_segment(scan: tuple[Path, Case], window: tuple[int, int, int]) -> None:
    path, case = scan
    wanted = segment.segment(Trained(Brightness(), Grid(GRID.size, GRID.spacing), window, False), case)  # type: ignore[arg-type]
    assert wanted.heart_found
    found, affine = label_of(ReadScan(), path, window)
    assert np.allclose(affine, case.affine, atol=1e-4)
    assert wanted.case.label is not None
    assert len(np.unique(wanted.case.label)) == 9
    assert (found != wanted.case.label).mean() < 1e-4


@pytest.mark.filterwarnings("ignore:NvImgCodec")
def test_a_scan_that_monai_reads_gives_the_same(scan: tuple[Path, Case]) -> None:
    path, _ = scan
    reader = LoadImage(reader="NibabelReader", image_only=True, ensure_channel_first=True, dtype=np.float32)
    ours, theirs = label_of(ReadScan(), path, GRID.size), label_of(lambda data: {"image": reader(data["image"])}, path, GRID.size)
    assert np.array_equal(ours[0], theirs[0])
    assert np.allclose(ours[1], theirs[1])


def test_where_there_is_no_heart_the_label_map_is_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).normal(-300, 100, (40, 40, 40)).astype(np.int16)
    write_nifti(tmp_path / "noise.nii.gz", noise, np.diag([4.0, 4.0, 4.0, 1.0]), dtype=np.int16)
    found, _ = label_of(ReadScan(), tmp_path / "noise.nii.gz", GRID.size)
    assert not found.any()
    assert "no heart was found" in " ".join(capsys.readouterr().err.split())


def test_scans_are_the_files_and_folders_that_may_hold_one(scan: tuple[Path, Case], tmp_path: Path) -> None:
    folder = scan[0].parent
    # Beside them, what an earlier run wrote into the same folder.
    (folder / "results").mkdir()
    for name in (".hidden.nii.gz", "notes.txt", "one_labels.nii.gz", "results/one_labels.nii.gz"):
        (folder / name).write_text("")
    for uid in ("1.2.840.1", "1.2.840.2", "series"):
        (folder / uid).mkdir()
        (folder / uid / "0001").write_bytes(bytes(128) + b"DICM")
    wanted = ("1.2.840.1", "1.2.840.2", "one.nii.gz", "series")
    # MONAI cuts a name at its last dot: results of both UIDs would share one without names of their own.
    assert scans(str(folder)) == [{"image": str(folder / n), "name": n.removesuffix(".nii.gz")} for n in wanted]
    (tmp_path / "empty").mkdir()
    for wrong in ("empty", "nowhere"):
        with pytest.raises(InputError, match=f"--dataset_dir .*{wrong}: is not a folder with"):
            scans(str(tmp_path / wrong))
