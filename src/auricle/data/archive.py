"""A .zip of scans, unpacked to a temporary folder only after its table of contents has been checked."""

import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from auricle.core.errors import InputError

MAX_ENTRIES = 20_000
MAX_BYTES = 2**32
FREE_BYTES, MAX_RATIO = 2**28, 100
"""Beyond 256 MiB, an archive that expands more than 100 times is taken for a bomb: CT packs two to four times, a label map fits below."""
_CHUNK = 2**20
_ENCRYPTED = 0x1


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Yield a temporary folder with the files of a .zip; it is removed at the end, whatever happens.

    Raises:
        InputError: not a zip archive, a damaged or encrypted one, or one with names that lead elsewhere, links, or more files or bytes than
            a CT study has.
    """
    try:
        temporary = tempfile.TemporaryDirectory(prefix="auricle-")
    except OSError as error:
        raise InputError(f"{path}: cannot be unpacked, there is no temporary folder ({error.strerror or error}); set TMPDIR to one") from None
    with temporary as name:
        _unpack(path, Path(name))
        yield Path(name)


def _unpack(path: Path, folder: Path) -> None:
    """Whatever a damaged archive makes zipfile raise becomes an `InputError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _checked(path, archive.infolist())
            total = sum(e.file_size for e in entries)
            if total > shutil.disk_usage(folder).free:
                raise InputError(f"{path}: needs {total / 2**30:.1f} GiB in {folder.parent}; free it, or set TMPDIR to another folder")
            for entry in entries:
                _extract(archive, entry, folder / PurePosixPath(entry.filename), path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be unpacked ({error.strerror or error})") from None
    except Exception as error:
        raise InputError(f"{path}: is not a zip archive or is damaged ({str(error).splitlines()[0] if str(error) else error!r})") from None


def _checked(path: Path, entries: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The files to extract; refuses the whole archive for one entry that is not harmless."""
    if len(entries) > MAX_ENTRIES:
        raise InputError(f"{path}: holds {len(entries)} files, more than {MAX_ENTRIES}; pack one study")
    total = sum(e.file_size for e in entries)
    if total > MAX_BYTES:
        raise InputError(f"{path}: unpacks to {total / 2**30:.1f} GiB, more than {MAX_BYTES / 2**30:.0f}; pack one study")
    if total > FREE_BYTES and total > MAX_RATIO * max(1, path.stat().st_size):
        raise InputError(f"{path}: unpacks to {total // max(1, path.stat().st_size)} times its size, as no scan does; it is refused")
    seen: set[str] = set()
    for entry in entries:
        name, mode = entry.filename, entry.external_attr >> 16
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or re.search(r"[\\:\x00-\x1f]", name):
            raise InputError(f"{path}: holds a name that leads elsewhere or is not allowed ({name!r:.80}); pack it anew")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InputError(f"{path}: holds a link or a device ({name!r:.80}); pack the files themselves")
        if entry.flag_bits & _ENCRYPTED:
            raise InputError(f"{path}: is encrypted; unpack it first")
        if name.casefold() in seen:
            raise InputError(f"{path}: holds {name!r:.80} twice; pack it anew")
        seen.add(name.casefold())
    return [e for e in entries if not e.is_dir() and "__MACOSX" not in PurePosixPath(e.filename).parts]


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, path: Path) -> None:
    """Write one entry, no further than its stated size; zipfile verifies its checksum at its end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    left = entry.file_size
    with archive.open(entry) as source, target.open("xb") as file:
        while part := source.read(_CHUNK):
            left -= len(part)
            if left < 0:
                raise InputError(f"{path}: {entry.filename!r:.80} is larger than it says; the archive is damaged")
            file.write(part)
    if left:
        raise InputError(f"{path}: {entry.filename!r:.80} is smaller than it says; the archive is damaged")
