"""Decoding DICOM pixels in a process of its own: decoders in C may crash, or never end, over a damaged file."""

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.errors import InputError
from auricle.data.dicom_files import decode

SECONDS = 60.0
"""A file that takes longer to decode is given up; an enhanced CT of 560 slices takes a few seconds."""
SERVE = "from auricle.data.decoding import serve; serve()"
Frames = tuple[NDArray[Any], tuple[int, int] | None]


def decode_apart(paths: Sequence[Path]) -> Generator[Frames, None, None]:
    """`decode` of each path in order, all by one other process, which ends with the iteration.

    Raises:
        InputError: as `decode`, and where the decoder crashed or did not come to an end.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command, pipe = [sys.executable, "-c", SERVE], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # where it ended at once
                process.stdin.write(json.dumps([str(p) for p in paths]).encode())
                process.stdin.close()
            for path in paths:
                late = threading.Timer(SECONDS, process.kill)
                late.start()
                try:
                    answer = _answer(process.stdout)
                finally:
                    late.cancel()
                if answer is None:
                    raise InputError(f"{path}: its compressed pixels are damaged: the decoder crashed or did not end; copy the file again")
                yield answer
        finally:
            process.kill()


def _answer(stream: IO[bytes]) -> Frames | None:
    """One file's frames and padding as `serve` writes them; None where the process ended before."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    facts = json.loads(line)
    if "refused" in facts:
        raise InputError(facts["refused"])
    dtype = np.dtype(facts["dtype"])
    data = stream.read(math.prod(facts["shape"]) * dtype.itemsize)
    if len(data) < math.prod(facts["shape"]) * dtype.itemsize:
        return None
    padding = None if facts["padding"] is None else (facts["padding"][0], facts["padding"][1])
    return np.frombuffer(data, dtype).reshape(facts["shape"]), padding


def serve() -> None:
    """What the other process does: read a JSON list of paths, write for each a line of JSON and the bytes of its frames."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not get among the frames
    for path in json.load(sys.stdin):
        try:
            frames, padding = decode(Path(path))
        except InputError as error:
            out.write(json.dumps({"refused": str(error)}).encode() + b"\n")
            break
        out.write(json.dumps({"dtype": frames.dtype.str, "shape": frames.shape, "padding": padding}).encode() + b"\n")
        out.write(np.ascontiguousarray(frames).tobytes())
        out.flush()
    out.close()
