"""Files damaged at random are read as they were or refused; `python -m benchmarks.fuzz_readers` does the same ten thousand times."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")
pytest.importorskip("nrrd")
pytest.importorskip("openjpeg")
pytest.importorskip("jpeg_ls")
pytest.importorskip("gdcm")
FORMATS = ("NIfTI", "NIfTI, gzip", "NRRD, gzip", "MetaImage, zlib", "MetaImage, header", "NRRD", "DICOM", "DICOM, RLE", "DICOM, JPEG 2000",
           "DICOM, JPEG-LS", "DICOM, JPEG lossless", "zip of NIfTI")  # fmt: skip


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, fuzz: Any) -> Any:
    return fuzz.samples(tmp_path_factory.mktemp("samples"))


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_as_they_were_or_refused(samples: Any, fuzz: Any, name: str) -> None:
    assert tuple(samples) == FORMATS
    sample, seen = samples[name], Counter()
    # Two are decoded in another process, whose start takes half a second.
    turns = 5 if name in fuzz.APART else 40
    for turn in range(turns):
        number = turn * len(FORMATS) + FORMATS.index(name)
        verdict, detail = fuzz.judge(sample, *fuzz.damaged(sample, number, 20261127))
        assert verdict in fuzz.GOOD, f"case {number}: {verdict} {detail}"
        seen[verdict] += 1
    assert seen["refused"] >= turns // 5


@pytest.mark.parametrize("name", ["NIfTI, gzip", "zip of NIfTI"])
def test_no_changed_voxel_passes_a_checksum(samples: Any, fuzz: Any, name: str) -> None:
    rng, sample = np.random.default_rng(7), samples[name]
    for _ in range(60):
        verdict, detail = fuzz.judge(sample, fuzz.flip_bits(sample, rng), True)
        assert verdict in ("refused", "read as it was"), detail


def test_the_judge_sees_changed_voxels(samples: Any, fuzz: Any, tmp_path: Path) -> None:
    sample = samples["NIfTI"]
    changed = bytearray(sample.sound)
    changed[-2] ^= 0x01
    assert fuzz.judge(sample, bytes(changed), False)[0] == "changed, no checksum"
    assert fuzz.judge(sample, bytes(changed), True)[0] == "changed in spite of a checksum"
    assert fuzz.judge(sample, sample.sound, True)[0] == "read as it was"
