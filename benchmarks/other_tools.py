"""What other tools say of the files that auricle writes, and whether a DICOM series and the same volume as NIfTI get the same labels.

    python -m benchmarks.other_tools RUN [--series FOLDER ...] [--nnunet FOLDER] [--out docs/results]

RUN holds generated pairs. `dciodvfy` (Debian: dicom3tools) must be installed; `--nnunet` is the folder of an environment's programs with nnunetv2,
`--series` a folder with one DICOM series.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from auricle.core.errors import InputError
from auricle.data.nifti import read_nifti, write_nifti
from auricle.data.reading import read_scan
from benchmarks.phantom_page import arguments, publish, table


def main() -> None:
    """Export, segment, and ask the others."""
    parser = arguments(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--series", type=Path, nargs="*", default=[])
    parser.add_argument("--nnunet", type=Path)
    options = parser.parse_args()
    if shutil.which("dciodvfy") is None:
        parser.error("dciodvfy is not installed (Debian: dicom3tools)")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        rows, warnings = validated(options.run, work)
        if options.nnunet is not None:
            rows.append(verified(options.run, work, options.nnunet))
        text = table(["files", "tool", "number", "errors", "warnings"], rows)
        text += "\n\nThe warnings of dciodvfy:\n\n" + "\n".join(f"- {w}" for w in warnings)
        both = [same_labels(path, work / str(k)) for k, path in enumerate(options.series)]
    if both:
        text += "\n\nSegmented as DICOM and as NIfTI, by the segmenter that ships:\n\n"
        text += table(["series", "voxels", "heart found", "labeled voxels", "voxels that differ"], both)
    series = "".join(f" {p.name}" for p in options.series)
    more = (f" --series{series}" if series else "") + (" --nnunet FOLDER" if options.nnunet else "")
    command = f"python -m benchmarks.other_tools {options.run.name}{more}"
    publish(text, out=options.out, name="other-tools", title="What other tools say of our files", command=command)


def auricle(*words: object) -> None:
    """Run a command of ours; what it says goes to the terminal."""
    subprocess.run([sys.executable, "-m", "auricle", *map(str, words), "--quiet"], check=True)


def validated(run: Path, work: Path) -> tuple[list[list[str]], list[str]]:
    """Rows of `dciodvfy` on synthetic CT series and on the DICOM segmentation of one of them, and its different warnings."""
    auricle("export", run, "-o", work / "ct", "--format", "dicom")
    images = sorted((work / "ct" / "images").rglob("*.dcm"))
    auricle("segment", images[0].parent, "-o", work / "seg", "--format", "dicom-seg")
    found = [("synthetic CT and its label maps (DICOM CT, DICOM SEG)", sorted((work / "ct").rglob("*.dcm"))),
             ("segmentation of a series (DICOM SEG)", sorted((work / "seg").rglob("*.dcm")))]  # fmt: skip
    rows, seen = [], set[str]()
    for name, files in found:
        said = [subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr for path in files]
        errors, warnings = (sum(text.count(f"{kind} - ") for text in said) for kind in ("Error", "Warning"))
        rows.append([name, "dciodvfy", str(len(files)), str(errors), str(warnings)])
        seen |= {line.removeprefix("Warning - ") for text in said for line in text.splitlines() if line.startswith("Warning - ")}
    return rows, sorted(seen)


def verified(run: Path, work: Path, programs: Path) -> list[str]:
    """The row of nnU-Net's verification and planning of an exported data set."""
    auricle("export", run, "-o", work / "raw", "--format", "nnunet", "--dataset-id", 900)
    folder = next((work / "raw").glob("Dataset900_*"))
    places = {f"nnUNet_{k}": str(work / k) for k in ("raw", "preprocessed", "results")}
    command = [programs / "nnUNetv2_plan_and_preprocess", "-d", "900", "--verify_dataset_integrity", "-c", "3d_fullres", "-np", "1", "-npfp", "1"]
    done = subprocess.run(command, env={**os.environ, **places}, capture_output=True, text=True, check=False)
    whole = done.returncode == 0 and "verify_dataset_integrity Done" in done.stdout
    number = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["numTraining"]
    version = subprocess.run([programs / "pip", "show", "nnunetv2"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"^Version: (\S+)", version, re.MULTILINE)
    warnings = done.stdout.lower().count("warning")
    name = f"nnU-Net {release[1] if release else ''}: verification, planning, preprocessing"
    if not whole:
        print(done.stdout[-2000:], done.stderr[-2000:])
    return ["nnU-Net data set", name, str(number), "0" if whole else "refused", str(warnings)]


def same_labels(series: Path, work: Path) -> Sequence[str]:
    """The row of one DICOM series that is segmented as it is and as a NIfTI file."""
    case, _ = read_scan(series, straighten=False)
    write_nifti(work / "scan.nii.gz", case.image, case.affine, dtype=case.image.dtype)
    labels = []
    for name, path in (("dicom", series), ("nifti", work / "scan.nii.gz")):
        auricle("segment", path, "-o", work / name)
        found = sorted((work / name).glob("*.nii.gz"))
        if len(found) != 1:
            raise InputError(f"{work / name}: holds {len(found)} label maps")
        labels.append(np.asarray(read_nifti(found[0])[0]))
    size = " x ".join(map(str, labels[0].shape))
    return [series.name, size, "yes" if labels[0].any() else "no", str(np.count_nonzero(labels[0])), str(np.count_nonzero(labels[0] != labels[1]))]


if __name__ == "__main__":
    main()
