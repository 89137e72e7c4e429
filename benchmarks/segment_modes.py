"""The fast mode of `auricle segment` beside the default, on virtual patients, and the memory that large scans need.

    python -m benchmarks.segment_modes [--patients 4] [--out docs/results]
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from auricle.core.case import Case
from auricle.data.nifti import write_nifti
from auricle.data.preprocess import ModelGrid, to_grid
from auricle.metrics import overlap
from auricle.phantom import virtual_patient
from auricle.stages import finetune, segment
from benchmarks.phantom_page import arguments, publish, table

SEED = 4711
"""Not a seed that anything is trained on."""
CARDIAC, CHEST = ((160, 160, 128), (1.25, 1.25, 1.25)), ((190, 150, 190), (2.2, 2.2, 2.2))
"""Voxels and spacing of a cardiac scan, 200 mm wide, and of one of the whole chest, 418 mm."""
LARGE = (("256 x 256 x 160", (256, 256, 160), (0.75, 0.75, 1.0)), ("512 x 512 x 560", (512, 512, 560), (0.8, 0.8, 0.75)))
"""Scans whose memory is measured."""


def modes(patients: int) -> str:
    """Processor time, views and Dice of both modes."""
    model = finetune.load(finetune.DEFAULT_MODEL)
    views = [0]
    model.network.register_forward_hook(lambda *_: views.__setitem__(0, views[0] + 1))
    lines = []
    for name, (size, spacing), index in [*(("cardiac", CARDIAC, i) for i in range(patients)), ("chest", CHEST, patients)]:
        shift = np.random.default_rng([SEED, index]).normal(0, 10.0, 3)
        case = virtual_patient(SEED, 200 + index, size, spacing, (float(shift[0]), float(shift[1]), float(shift[2])))
        assert case.label is not None
        cells, found = [], []
        for fast in (False, True):
            views[0], start = 0, time.process_time()
            label = segment.segment(model, case, fast=fast).case.label
            assert label is not None
            seconds = time.process_time() - start
            found.append(label)
            cells += [f"{seconds:.1f}", str(views[0]), f"{overlap.average([overlap.dice(label, case.label)])['mean']:.3f}"]
        between = overlap.dice(found[1], found[0])
        heart = min(v for k, v in between.items() if k in segment.HEART and v is not None)
        lines.append([f"{name} {index}", *cells, f"{heart:.3f}", *(f"{between[k] or 0:.3f}" for k in ("AO", "PA", "LAA"))])
    own = ["CPU, s", "views", "mean Dice"]
    return table(["scan", *own, *(f"fast: {k}" for k in own), "fast against default: heart, least", "AO", "PA", "LAA"], lines)


def memory() -> str:
    """Peak memory and processor time of the whole command on large scans, made from one patient's coarse scan."""
    coarse = virtual_patient(SEED, 210, *CHEST)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name, size, spacing in LARGE:
            write_nifti(Path(folder) / "scan.nii.gz", _resampled(coarse, size, spacing), np.diag([*spacing, 1.0]), dtype=np.int16)
            for flags in ([], ["--fast"]):
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                words = ["segment", "scan.nii.gz", "-o", "out", "--overwrite", "--quiet", *flags]
                # Linux' own mark: the peak that `resource` gives is never less than that of the process that started this one.
                code = f"from auricle import cli; cli.main({words!r}); print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
                run = subprocess.run([sys.executable, "-c", code], cwd=folder, env={**os.environ}, capture_output=True, text=True, check=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                lines.append([name, "fast" if flags else "default", f"{seconds:.0f}", f"{int(run.stdout.split()[-1]) / 2**20:.2f}"])
    return table(["voxels", "mode", "CPU, s", "peak memory, GiB"], lines)


def _resampled(case: Case, size: tuple[int, int, int], spacing: tuple[float, float, float]) -> np.ndarray:
    """A finer scan of the same patient, with noise of its own so that it packs as a real one does."""
    center = (case.affine @ [*((np.array(case.image.shape) - 1) / 2), 1.0])[:3]
    image = to_grid(case.image, case.affine, ModelGrid(size, spacing).affine(center), size)
    return np.maximum(np.rint(image + np.random.default_rng(0).normal(0, 15, size)), -1024).astype(np.int16)


def main() -> None:
    """Measure and print, or write the page."""
    parser = arguments(__doc__)
    parser.add_argument("--patients", type=int, default=4)
    o = parser.parse_args()
    text = (
        "## Fast and default\n\nVirtual patients that the segmenter never saw; one thread. A view is one pass of the network over its window. "
        f"Dice against the true labels, and of the fast mode's labels against the default's.\n\n{modes(o.patients)}\n\n"
        f"## Large scans\n\nThe whole command, reading and writing included.\n\n{memory()}"
    )
    command = f"python -m benchmarks.segment_modes --patients {o.patients}"
    publish(text, out=o.out, name="segment-modes", title="Fast mode and memory of `auricle segment`", command=command)


if __name__ == "__main__":
    main()
