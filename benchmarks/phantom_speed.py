"""Seconds and memory that a virtual patient takes, by size of the scan and number of workers.

    OMP_NUM_THREADS=1 python -m benchmarks.phantom_speed [--patients 3] [--seed 0] [--out docs/results]

Every size and number of workers runs in a process of its own, after one small scan that loads the libraries.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from auricle.core import progress
from auricle.phantom import virtual_patient
from benchmarks.phantom_page import arguments, publish, table

SCANS = (((64, 64, 64), 2.5), ((128, 128, 96), 1.5), ((192, 192, 128), 1.0), ((256, 256, 160), 0.75))
"""Voxels and isotropic spacing in mm."""
WORKERS = (1, 2)
PER_MIB = 2**20 if sys.platform == "darwin" else 2**10
"""Unit of the peak memory that the system reports, in 1/MiB."""


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / PER_MIB


def one(scan: int, workers: int, patients: int, seed: int) -> None:
    """Print the median seconds of a patient, and the peak memory before and after, MiB."""
    size, spacing = SCANS[scan]
    virtual_patient(seed, 0, (16, 16, 16), (3.0, 3.0, 3.0))
    before, seconds = peak_mib(), []
    for index in range(patients):
        start = time.perf_counter()
        virtual_patient(seed, index, size, (spacing,) * 3, workers=workers)
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds), before, peak_mib())


def rows(patients: int, seed: int) -> Iterator[list[str]]:
    """One row a size and number of workers."""
    runs = [(scan, workers) for scan in range(len(SCANS)) for workers in WORKERS]
    for scan, workers in progress.track(runs, "scans", len(runs)):
        size, spacing = SCANS[scan]
        command = [sys.executable, "-m", "benchmarks.phantom_speed", "--patients", str(patients), "--seed", str(seed)]
        printed = subprocess.run([*command, "--one", f"{scan} {workers}"], check=True, capture_output=True, text=True).stdout
        seconds, before, after = map(float, printed.split())
        each = seconds / (size[0] * size[1] * size[2] / 1e6)
        voxels = " x ".join(map(str, size))
        yield [voxels, f"{spacing:g}", str(workers), f"{seconds:.2f}", f"{each:.2f}", f"{after:.0f}", f"{after - before:.0f}"]


def main() -> None:
    """Time every size."""
    parser = arguments(__doc__)
    parser.add_argument("--patients", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.one:
        scan, workers = map(int, o.one.split())
        one(scan, workers, o.patients, o.seed)
        return
    header = ["voxels", "mm", "workers", "seconds", "seconds a million voxels", "peak memory, MiB", "of it the scan's, MiB"]
    text = f"""One patient with image, labels, checks and redraws: median of {o.patients} patients. The scan's memory is what the
peak rises above that of the loaded libraries after one tiny scan.

{table(header, rows(o.patients, o.seed))}"""
    publish(
        text, out=o.out, name="phantom-speed", title="Speed of the virtual patients",
        command=f"python -m benchmarks.phantom_speed --patients {o.patients} --seed {o.seed}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
