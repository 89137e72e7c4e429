"""Decompression reads what Python's gzip reads."""

import gzip
import io
import zlib

import numpy as np
import pytest

from auricle.data.voxels import Gunzip

CONTENT = np.random.default_rng(0).integers(0, 40, 300_000).astype(np.uint8).tobytes() + bytes(2_000_000)


def read(packed: bytes, size: int) -> bytes:
    with Gunzip(io.BytesIO(packed)) as stream:
        parts = list(iter(lambda: stream.read(size), b""))
    assert all(len(p) == size for p in parts[:-1])
    return b"".join(parts)


@pytest.mark.parametrize("size", [1000, 65_536, 10**7])
@pytest.mark.parametrize("padding", [0, 5])
def test_members_and_padding(size: int, padding: int) -> None:
    one, two = gzip.compress(CONTENT), gzip.compress(CONTENT[:7] + CONTENT)
    for packed in (one, one + two, one + gzip.compress(b"") + two):
        packed += bytes(padding)
        assert read(packed, size) == gzip.decompress(packed)
    assert read(gzip.compress(b""), size) == b""


@pytest.mark.parametrize("cut", [1, 8, 9, 500])
def test_cut_off(cut: int) -> None:
    with pytest.raises(EOFError):
        read(gzip.compress(CONTENT)[:-cut], 10**5)


@pytest.mark.parametrize("at", [-1, -5, -8])
def test_wrong_checksum_or_size(at: int) -> None:
    packed = bytearray(gzip.compress(CONTENT))
    packed[at] ^= 1
    with pytest.raises(zlib.error):
        read(bytes(packed), 10**5)


def test_foreign_bytes_at_the_end() -> None:
    with pytest.raises(zlib.error):
        read(gzip.compress(CONTENT) + b"more", 10**5)
