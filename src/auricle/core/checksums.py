"""SHA256SUMS: a folder that is handed on proves itself unaltered. The format is that of `sha256sum`, so that `sha256sum -c` checks it too."""

import hashlib
from pathlib import Path, PurePosixPath
from typing import IO

from auricle.core.errors import InputError
from auricle.core.files import write_text

SUMS = "SHA256SUMS"


def write_checksums(folder: Path) -> None:
    """List every file below `folder` with its hash in ``SHA256SUMS``."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p != folder / SUMS)
    write_text(folder / SUMS, "".join(f"{file_hash(folder / name)}  {name}\n" for name in names))


def verify_checksums(folder: Path) -> None:
    """Raise `InputError` naming the first file that is missing or is not the one ``SHA256SUMS`` lists."""
    for name, wanted in read_checksums(folder).items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: is missing, though {SUMS} lists it: copy the folder again")
        found = file_hash(path)
        if found != wanted:
            raise InputError(f"{path}: was altered: its SHA-256 is {found[:16]}.., {SUMS} says {wanted[:16]}..: copy the folder again")


def read_checksums(folder: Path) -> dict[str, str]:
    """Relative path to SHA-256 (hex) of every file that ``SHA256SUMS`` lists; raises `InputError` for anything else."""
    path = folder / SUMS
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    return parse_checksums(text, str(path))


def parse_checksums(text: str, place: str) -> dict[str, str]:
    """Relative path to SHA-256 (hex) in the text of such a list, which lies at `place`; raises `InputError` for anything else."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        value, _, name = line.partition("  ")
        if len(value) != 64 or not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{place}: is damaged at {line[:80]!r}")
        found[name] = value
    return found


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as handle:
        return hash_of(handle)


def hash_of(handle: IO[bytes]) -> str:
    """SHA-256 (hex) of what is left to read."""
    return hashlib.file_digest(handle, "sha256").hexdigest()  # type: ignore[arg-type]
