"""From the bytes of a file to voxels: nothing is taken that the file does not hold, and every checksum is verified."""

import bz2
import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from auricle.core.arrays import in_memory_order, slabs
from auricle.core.errors import InputError
from auricle.core.memory import check_free
from auricle.data.geometry import Shape

Encoding = Literal["raw", "gzip", "zlib", "bzip2"]
SCAN_BYTES = 8
"""Memory that reading a voxel of a scan takes at its fullest moment, copies included (docs/results/segment-modes.md)."""
CHUNK = 2**17
"""Bytes read at once: few enough to stay in the cache until they are copied."""
MAX_EXPANSION: dict[str, int] = {"raw": 1, "gzip": 1032, "zlib": 1032, "bzip2": 2**17}
"""No deflate stream expands further than 1032 times (zlib technical notes), so a small file cannot hold a large volume; bzip2 packs
runs of one byte far tighter."""


class Stream(Protocol):
    """What is read from: at most `size` bytes a call, none at the end."""

    def read(self, size: int, /) -> bytes: ...


class _Inflating:
    """Decompressed bytes of one zlib or gzip stream that reaches to the end of the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._zip = file, zlib.decompressobj(wbits=47)

    def read(self, size: int, /) -> bytes:
        while not self._zip.eof:
            packed = self._zip.unconsumed_tail or self._file.read(2**18)
            out = self._zip.decompress(packed, size)
            if out:
                return out
            if not packed:
                raise EOFError("the stream ends early")
        if self._zip.unused_data or self._file.read(1):
            raise zlib.error("bytes follow its end")
        return b""


def unpacking(file: IO[bytes], encoding: Encoding) -> Stream:
    """The decompressed bytes of `file` from where it stands."""
    if encoding == "gzip":
        return cast(Stream, gzip.GzipFile(fileobj=file))
    if encoding == "bzip2":
        return cast(Stream, bz2.BZ2File(file))
    return _Inflating(file) if encoding == "zlib" else file


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What a damaged stream or the system makes of a read becomes an `InputError`."""
    try:
        # A damaged header may hold signaling NaNs, which warn when they are converted.
        with np.errstate(all="ignore"):
            yield
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: the compressed data are damaged or cut off ({error}); copy the file again") from None
    except OSError as error:
        if error.errno is None:  # of gzip and bz2
            raise InputError(f"{path}: the compressed data are damaged or cut off ({error}); copy the file again") from None
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except MemoryError:
        raise InputError(f"{path}: its voxels need more memory than is free") from None


def check_claim(path: Path, shape: Shape, count: int, needed: int, there: int, encoding: Encoding) -> None:
    """Refuse a header that claims more than `there` bytes can hold, before anything is allocated."""
    if needed > there * MAX_EXPANSION[encoding]:
        claim = " x ".join(str(v) for v in shape) + (f" x {count}" if count > 1 else "")
        raise InputError(f"{path}: the header claims {claim} voxels, more than the file can hold; it is cut off or damaged")


def read_voxels(
    stream: Stream, path: Path, shape: Shape, dtype: np.dtype[Any], *, count: int = 1, index: int = 0, interleaved: bool = False
) -> NDArray[Any]:
    """The raw voxels [x, y, z] of volume `index` of `count`, first axis fastest; reads to the end, so that checksums are verified.

    Args:
        stream: stands before the first voxel.
        path: for messages.
        shape: of one volume.
        dtype: of one voxel, in the file's byte order.
        count: number of volumes.
        index: the one to take.
        interleaved: the volumes' voxels alternate, rather than one volume following the other.

    Raises:
        InputError: less memory is free than a scan of that size takes, or the file does not hold what its header says.
    """
    voxels = math.prod(shape)
    check_free(path, voxels * max(SCAN_BYTES, 2 * dtype.itemsize))
    raw = np.empty(voxels, dtype)
    if interleaved and count > 1:
        done, step = 0, max(1, CHUNK // (count * dtype.itemsize))
        while done < voxels:
            part = min(step, voxels - done)
            raw[done : done + part] = np.frombuffer(_exactly(stream, part * count * dtype.itemsize, path), dtype)[index::count]
            done += part
    else:
        skip_bytes(stream, index * raw.nbytes, path)
        _fill(stream, raw.view(np.uint8), path)
        skip_bytes(stream, (count - 1 - index) * raw.nbytes, path)
    if stream.read(1):
        raise InputError(f"{path}: holds more voxels than its header says; the header is damaged")
    return raw.reshape(shape, order="F")


def skip_bytes(stream: Stream, count: int, path: Path) -> None:
    """Read and drop `count` bytes."""
    while count > 0:
        part = stream.read(min(CHUNK, count))
        if not part:
            raise InputError(f"{path}: is cut off before its voxels end")
        count -= len(part)


def scaled(raw: NDArray[Any], slope: float, shift: float, path: Path) -> NDArray[Any]:
    """``raw * slope + shift`` in this machine's byte order and the memory order of `raw`; integers stay integers where both factors are whole.

    Raises:
        InputError: a voxel is not a finite number, before or after.
    """
    if not np.issubdtype(raw.dtype, np.integer):
        bad = sum(part.size - int(np.count_nonzero(np.isfinite(part))) for part in slabs(raw))
        if bad:
            raise InputError(f"{path}: {bad} of {raw.size} voxels are not finite numbers (NaN or Inf)")
    native = raw.astype(raw.dtype.newbyteorder("="), copy=False)
    if slope == 1 and shift == 0:
        return native
    kind = _whole_type(native, slope, shift)
    out = np.empty_like(native, np.float32 if kind is None else kind)
    # Part by part: a float64 or int64 copy of a whole CT would take gigabytes.
    for part, target in zip(in_memory_order(native), in_memory_order(out), strict=True):
        if kind is None:
            target[...] = part * np.float64(slope) + shift
            if not np.isfinite(target).all():
                raise InputError(f"{path}: the intensity scaling in the header ({slope:g}, {shift:g}) goes beyond all numbers")
        else:
            target[...] = part.astype(np.int64) * int(slope) + int(shift)
    return out


def _whole_type(native: NDArray[Any], slope: float, shift: float) -> type[Any] | None:
    """The smallest integer type that holds the scaled values; None where they are not whole."""
    if not (np.issubdtype(native.dtype, np.integer) and slope.is_integer() and shift.is_integer()):
        return None
    ends = [int(v) * int(slope) + int(shift) for v in (native.min(), native.max())]
    fitting = (k for k in (np.int16, np.int32, np.int64) if np.iinfo(k).min <= min(ends) and max(ends) <= np.iinfo(k).max)
    return next(fitting, None)


def _fill(stream: Stream, target: NDArray[np.uint8], path: Path) -> None:
    done = 0
    while done < target.size:
        part = stream.read(min(CHUNK, target.size - done))
        if not part:
            raise InputError(f"{path}: is cut off: {done} of {target.size} bytes of voxels are there")
        target[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)


def _exactly(stream: Stream, count: int, path: Path) -> NDArray[np.uint8]:
    part = np.empty(count, np.uint8)
    _fill(stream, part, path)
    return part
