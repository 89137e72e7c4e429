"""Seconds that `auricle check` takes a case, beside plain decompression of the same files.

    OMP_NUM_THREADS=1 python -m benchmarks.check_speed [--cases 20] [--out docs/results]

The cohort is made in a temporary folder: virtual patients on a coarse grid, blown up to 512 x 512 x 224 voxels, with noise of 20 HU in every
voxel, so that the files are about as large as those of coronary CT angiography. Everything runs in one process on one core, and seconds
are processor time, which other programs on the machine disturb less than the clock.
"""

import argparse
import gzip
import multiprocessing
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from auricle.core import progress
from auricle.data.folder import PairPath, find_pairs
from auricle.phantom import virtual_patient
from auricle.report.check_page import write_sheets
from auricle.stages import check
from auricle.stages.check import CheckConfig
from benchmarks.phantom_page import arguments, publish, table
from benchmarks.phantom_speed import peak_mib

SHAPE, SPACING = (512, 512, 224), (0.375, 0.375, 0.5)
COARSE, COARSE_MM = (128, 128, 75), (1.5, 1.5, 1.5)
NOISE_HU = 20.0
COHORT = 262
"""Cases that the figures are extrapolated to."""


def blown_up(array: Any) -> Any:
    """A coarse volume on the fine grid, nearest voxel."""
    for axis, n in enumerate(SHAPE):
        array = np.take(array, np.arange(n) * array.shape[axis] // n, axis=axis)
    return array


def make(folder: Path, cases: int) -> None:
    """Write the cohort: ``images`` and ``labels``, gzip level 1 since writing is not what is measured."""
    rng = np.random.default_rng(0)
    noise = np.rint(rng.normal(0, NOISE_HU, SHAPE)).astype(np.int16)
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    for index in progress.track(range(cases), "cohort", cases):
        case = virtual_patient(0, index, COARSE, COARSE_MM)
        image = np.clip(blown_up(case.image.astype(np.int16)) + np.roll(noise, index, axis=0), -1024, 3071).astype(np.int16)
        for kind, array in (("images", image), ("labels", blown_up(case.label))):
            path = folder / kind / f"case{index:03d}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            packed = nib.Nifti1Image(array[::-1, ::-1], affine)
            packed.set_qform(affine, 1)
            with gzip.open(path, "wb", compresslevel=1) as file:
                file.write(packed.to_bytes())


def gunzip(pairs: Sequence[PairPath]) -> None:
    """Read every file to its end through Python's gzip."""
    for path in files(pairs):
        with gzip.open(path) as stream:
            while stream.read(2**22):
                pass


def inflate(pairs: Sequence[PairPath]) -> None:
    """The same through zlib itself, a MiB of compressed data at a time."""
    for path in files(pairs):
        unpack = zlib.decompressobj(31)
        with path.open("rb") as stream:
            while part := stream.read(2**20):
                unpack.decompress(part)


def files(pairs: Sequence[PairPath]) -> list[Path]:
    """Images and label maps."""
    return [f for p in pairs for f in (p.image, p.label) if f is not None]


def timed(work: Callable[[], Any]) -> float:
    """Processor seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(folder: Path, cases: int) -> str:
    """The page's text."""
    data, out = folder / "cohort", folder / "out"
    data.mkdir()
    # In a process of its own, so that its memory does not count.
    maker = multiprocessing.get_context("spawn").Process(target=make, args=(data, cases))
    maker.start()
    maker.join()
    assert maker.exitcode == 0, "the cohort could not be made"
    pairs, size = find_pairs(data), sum(f.stat().st_size for f in files(find_pairs(data)))

    def checked(out: Path, **options: Any) -> Callable[[], None]:
        return lambda: write_sheets(check.run(CheckConfig(data, workers=1, **options), out), out) and None

    # Every file is read once before anything is timed, so that all find it in the system's cache.
    gunzip(pairs[:1])
    for path in files(pairs):
        path.read_bytes()
    steps: list[tuple[str, Callable[[], Any]]] = [
        ("decompression by gzip", lambda: gunzip(pairs)), ("decompression by zlib", lambda: inflate(pairs)),
        ("check, every voxel", checked(out)), ("check again, nothing changed", checked(out)),
        ("check --quick", checked(folder / "quick", quick=True)),
    ]  # fmt: skip
    seconds = {name: timed(work) / cases for name, work in progress.track(steps, "steps", len(steps))}
    rows = [[name, f"{s:.3g}", f"{1 / s:.3g}", f"{s * COHORT:.0f}"] for name, s in seconds.items()]
    full = seconds["check, every voxel"]
    by_gzip, by_zlib = (full / seconds[f"decompression by {name}"] for name in ("gzip", "zlib"))
    return f"""{cases} cases of {" x ".join(map(str, SHAPE))} voxels, image (int16) and label map together {size / cases / 2**20:.0f} MiB.
One process, one thread; processor seconds, which leave out the waiting for other programs. Contact sheets and files of results are in it;
the start of the program is not (imports, and the estimate of what a recipe needs).

{table(["what", "seconds a case", "cases a second", f"seconds, {COHORT} cases"], rows)}

The check of every voxel takes {by_gzip:.2f} times as long as decompression by Python's gzip and {by_zlib:.2f} times
as long as decompression by zlib itself. Peak memory of the process: {peak_mib() / 1024:.2f} GiB."""


def main() -> None:
    """Make the cohort, measure and write the page."""
    parser = arguments(__doc__)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    o = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=o.folder) as folder:
        text = measure(Path(folder), o.cases)
    publish(text, out=o.out, name="check-speed", title="Speed of the check", command=f"python -m benchmarks.check_speed --cases {o.cases}")


if __name__ == "__main__":
    main()
