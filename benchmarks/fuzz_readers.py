"""Do the readers stand damaged files? Small scans of every format, each changed at random, are read or refused, and never anything else.

    python -m benchmarks.fuzz_readers [--count 10000] [--seed 0] [--first 0] [--out docs/results/fuzzing.md]

Every damaged scan must be refused (`InputError`) or be read with the voxels and the place it had. Where a checksum covers the damage, nothing else
is allowed. Where none does, a changed voxel is a voxel: such reads are counted apart. Other exceptions, warnings, crashes, reads of more than
10 seconds and more than 1 GiB of memory are faults. Prints one table, writes it to `--out`, and exits with status 1 if there were faults.
"""

import argparse
import gzip
import multiprocessing
import os
import re
import resource
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from auricle.core import progress
from auricle.core.errors import InputError
from auricle.core.files import write_text
from auricle.core.machine import describe_machine
from auricle.data import decoding
from auricle.data.reading import read_scan
from benchmarks import scan_files

SECONDS = 10
MEMORY = 2**30
AFFINE = np.array([[-0.8, 0.0, 0.0, 30.0], [0.0, 0.75, 0.0, -20.0], [0.0, 0.0, 2.5, 7.0], [0.0, 0.0, 0.0, 1.0]])
EXTREMES = (b"0", b"-1", b"1", b"2", b"65535", b"99999999", b"1e30", b"-1e-30", b"nan", b"inf", b"", b"9" * 400)
COLUMNS = ("refused", "read as it was", "changed, no checksum", "changed in spite of a checksum", "other exception", "crash or hang")
GOOD = COLUMNS[:3]
APART = ("DICOM, JPEG-LS", "DICOM, JPEG lossless")
"""Formats decoded in another process, whose start takes half a second: they get one case where others get eight."""


@dataclass(frozen=True)
class Sample:
    """A sound scan and the file of it that is damaged."""

    scan: Path
    """What is read."""
    file: Path
    sound: bytes
    header: int
    """Bytes of the file's header."""
    checked: int
    """From which byte on a checksum covers the file; its length where there is none."""
    truth: tuple[np.ndarray, np.ndarray]


def samples(folder: Path) -> dict[str, Sample]:
    """One scan of each format."""
    hu = np.random.default_rng(1).integers(-1000, 1000, (12, 10, 8)).astype(np.int16)
    found = {}
    for name in ("scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha", "scan.mhd"):
        path = scan_files.write(_fresh(folder / name.replace(".", "-")) / name, hu, AFFINE)
        whole = path.read_bytes()
        start = {".gz": 0, ".nrrd": whole.find(b"\x1f\x8b"), ".mha": whole.find(b"\x78\x9c")}.get(path.suffix, len(whole))
        label = {".nrrd": "NRRD, gzip", ".mha": "MetaImage, zlib", ".mhd": "MetaImage, header", ".gz": "NIfTI, gzip", ".nii": "NIfTI"}[path.suffix]
        found[label] = _sample(path, path, 352 if path.suffix == ".nii" else start or 20, start)
    plain = scan_files.nrrd(_fresh(folder / "raw") / "scan.nrrd", hu, AFFINE, {"encoding": "raw"})
    found["NRRD"] = _sample(plain, plain, len(plain.read_bytes()) - hu.nbytes, None)
    raw = (np.random.default_rng(2).normal(1000, 200, (64, 48, 3))).astype(np.uint16)
    uids = {"": None, ", RLE": "1.2.840.10008.1.2.5", ", JPEG 2000": "1.2.840.10008.1.2.4.90", ", JPEG-LS": "1.2.840.10008.1.2.4.80",
            ", JPEG lossless": scan_files.JPEG_LOSSLESS}  # fmt: skip
    for kind, syntax in uids.items():
        series = scan_files.dicom(folder / f"dicom{kind}", raw, syntax)
        found[f"DICOM{kind}"] = _sample(series, series / "001.dcm", 900, None)
    archive = _fresh(folder / "zip") / "scan.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.write(found["NIfTI"].file, "scan.nii")
    found["zip of NIfTI"] = _sample(archive, archive, 40, 0)
    return found


def _fresh(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _sample(scan: Path, file: Path, header: int, checked: int | None) -> Sample:
    sound = file.read_bytes()
    case, _ = read_scan(scan)
    return Sample(scan, file, sound, header, len(sound) if checked is None else checked, (case.image, case.affine))


def truncate(sample: Sample, rng: np.random.Generator) -> bytes:
    """The file is cut off."""
    return sample.sound[: int(rng.integers(len(sample.sound)))]


def flip_bits(sample: Sample, rng: np.random.Generator) -> bytes:
    """One to eight bits are flipped, anywhere."""
    data = bytearray(sample.sound)
    for at in rng.integers(0, len(data), rng.integers(1, 9)):
        data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def change_header(sample: Sample, rng: np.random.Generator) -> bytes:
    """One to four bytes of the header get another value."""
    data = bytearray(sample.sound)
    for at in rng.integers(0, min(sample.header, len(data)), rng.integers(1, 5)):
        data[at] = int(rng.integers(256))
    return bytes(data)


def change_number(sample: Sample, rng: np.random.Generator) -> bytes:
    """A number of the header becomes an extreme one: of a text as text, else two, four or eight bytes."""
    head, rest = sample.sound[: sample.header], sample.sound[sample.header :]
    places = [m.span() for m in re.finditer(rb"-?\d[\d.e+-]*", head)]
    if places and rng.random() < 0.8:
        start, stop = places[int(rng.integers(len(places)))]
        return head[:start] + EXTREMES[int(rng.integers(len(EXTREMES)))] + head[stop:] + rest
    kinds = [("<h", v) for v in (-1, 0, 1, 32767, -32768)] + [("<f", v) for v in (0.0, -1.0, 1e30, float("nan"))] + [("<d", float("inf"))]
    kind, value = kinds[int(rng.integers(len(kinds)))]
    data = bytearray(sample.sound)
    struct.pack_into(kind, data, int(rng.integers(0, max(1, min(sample.header, len(data)) - 8))), value)
    return bytes(data)


def move_part(sample: Sample, rng: np.random.Generator) -> bytes:
    """A part of up to 64 bytes is left out, doubled, or overwritten with zeros."""
    data, (at, size) = sample.sound, (int(rng.integers(len(sample.sound))), int(rng.integers(1, 65)))
    part = (b"", data[at : at + size] * 2, bytes(size))[int(rng.integers(3))]
    return data[:at] + part + data[at + size :]


MUTATIONS: tuple[Callable[[Sample, np.random.Generator], bytes], ...] = (truncate, flip_bits, change_header, change_number, move_part)


def damaged(sample: Sample, number: int, seed: int) -> tuple[bytes, bool]:
    """The bytes of case `number`, and whether a checksum covers all that changed."""
    rng = np.random.default_rng([seed, number])
    mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
    if sample.checked == 0 and sample.file.suffix == ".gz" and mutation in (change_header, change_number):
        # A header that a program wrote wrongly: the checksum is right.
        inner = Sample(sample.scan, sample.file, gzip.decompress(sample.sound), 352, 0, sample.truth)
        return gzip.compress(mutation(inner, rng), mtime=0), False
    data = mutation(sample, rng)
    return data, data[: sample.checked] == sample.sound[: sample.checked]


def judge(sample: Sample, data: bytes, covered: bool) -> tuple[str, str]:
    """How a damaged file fares, one of `COLUMNS`, and what was raised."""
    sample.file.write_bytes(data)
    try:
        case, _ = read_scan(sample.scan)
    except InputError as error:
        return ("other exception", f"two lines: {error}") if "\n" in str(error) else ("refused", str(error))
    except Exception as error:
        return "other exception", repr(error)
    finally:
        sample.file.write_bytes(sample.sound)
    image, affine = sample.truth
    if np.array_equal(case.image, image) and np.allclose(case.affine, affine, rtol=0, atol=1e-6):
        return "read as it was", ""
    return (COLUMNS[3] if covered else COLUMNS[2]), ""


def _work(first: int, count: int, seed: int, limit: bool, pipe: Connection) -> None:
    """Judge cases `first` .. `count`, and send number, format, verdict, detail, seconds and the peak memory in KiB of each."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders in C complain there
    warnings.simplefilter("error")
    decoding.SECONDS = SECONDS / 2
    with tempfile.TemporaryDirectory() as folder:
        table = samples(Path(folder))
        names = [n for n in table if n not in APART] * 8 + list(APART)
        if limit:
            held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
        for number in range(first, count):
            name = names[number % len(names)]
            pipe.send((number, name))
            start = time.perf_counter()
            verdict = judge(table[name], *damaged(table[name], number, seed))
            pipe.send((number, name, *verdict, time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
    pipe.send(None)


def run(first: int, count: int, seed: int, update: progress.Update) -> tuple[dict[str, Counter[str]], dict[str, float], float, list[str]]:
    """Judge every case in processes of their own; returns verdicts and the slowest case by format, peak GiB, and the faults."""
    verdicts: dict[str, Counter[str]] = {}
    slowest: dict[str, float] = {}
    peak, faults = 0.0, []
    context = multiprocessing.get_context("fork")
    while first < count:
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(first, count, seed, sys.platform == "linux", theirs))
        worker.start()
        theirs.close()
        begun: tuple[Any, ...] | None = None
        while True:
            try:
                message = ours.recv() if ours.poll(SECONDS if begun else 120) else "hang"
            except EOFError:
                message = "crash"
            if message is None:
                first = count
                break
            if isinstance(message, str):
                if begun is None:
                    raise RuntimeError(f"the samples could not be made ({message})")
                worker.kill()
                number, name = begun
                message = (number, name, "crash or hang", message, 0.0, 0)
            begun = message[:2]
            if len(message) > 2:
                number, name, verdict, detail, seconds, memory = message
                verdicts.setdefault(name, Counter())[verdict] += 1
                slowest[name] = max(slowest.get(name, 0.0), seconds)
                peak, first = max(peak, memory / 2**20), number + 1
                update(sum(c.total() for c in verdicts.values()), {})
                if verdict not in GOOD:
                    faults.append(f"case {number}, {name}: {verdict} {detail}")
                if verdict == "crash or hang":
                    break
        worker.join()
        ours.close()
    return verdicts, slowest, peak, faults


def table(verdicts: dict[str, Counter[str]], slowest: dict[str, float]) -> str:
    """A Markdown table by format."""
    rows = [["format", "cases", *COLUMNS, "slowest, ms"], ["---"] * (len(COLUMNS) + 3)]
    for name, counts in verdicts.items():
        rows.append([name, str(counts.total()), *(str(counts[c]) for c in COLUMNS), f"{1000 * slowest[name]:.0f}"])
    total = sum(verdicts.values(), Counter())
    rows.append(["all", str(total.total()), *(str(total[c]) for c in COLUMNS), f"{1000 * max(slowest.values()):.0f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to see one again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="page to write")
    options = parser.parse_args()
    start = time.perf_counter()
    progress.configure("bars")
    with progress.bar("cases", options.count) as update:
        verdicts, slowest, peak, faults = run(options.first, options.first + options.count, options.seed, update)
    text = table(verdicts, slowest)
    print(text)
    print("\n".join(faults[:50]))
    minutes = (time.perf_counter() - start) / 60
    if options.out is not None:
        write_text(options.out, page(text, options.count, options.seed, peak, minutes, len(faults)))
    sys.exit(1 if faults else 0)


def page(text: str, count: int, seed: int, peak: float, minutes: float, faults: int) -> str:
    """The page of results."""
    machine = describe_machine()
    on = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['platform']}, Python {machine['python']}"
    return f"""# Damaged files

`python -m benchmarks.fuzz_readers --count {count} --seed {seed}`, {datetime.now(UTC):%Y-%m-%d}, {on}; {minutes:.1f} minutes, faults: {faults}.

Small scans of every format are cut off, get bits flipped, bytes or numbers of their header changed, and parts left out, doubled or zeroed,
in turn; then `auricle` reads them. Each must be refused in one line, or be read with the voxels and the place that it had.

{text}

"Changed, no checksum": the file was read with other voxels or in another place, and nothing in its format could tell. Uncompressed NIfTI, NRRD
and MetaImage and all of DICOM have no checksum, and the headers of NRRD and MetaImage lie outside that of their compressed voxels. A gzipped
NIfTI whose header a program wrote wrongly, with a right checksum, counts here too. Where a checksum covers the damage, this must not happen, and
the next column says how often it did.

A case that takes more than {SECONDS} s counts as a hang. The address space was held to 1 GiB beyond the start's; the largest resident memory of a
reading process was {peak:.2f} GiB, the interpreter and its libraries included.
"""


if __name__ == "__main__":
    main()
