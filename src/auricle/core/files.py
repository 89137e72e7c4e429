"""Atomic writes: a reader sees the old file or the new one, never a part."""

import contextlib
import errno
import glob
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auricle.core.errors import Busy


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` with the same suffixes; replace `target` by it if the block succeeds.

    On an error the temporary file is removed and `target` stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Processes of one number may write from several machines, or containers, to one folder.
    temporary = target.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.{target.name}")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target`, removed at the end unless it was moved, with folders made for it that stay empty.

    Removes first what a killed process left there.

    Raises `Busy` where a process that lives has such a folder for the same `target`.
    """
    made = [p for p in target.parents if not p.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_up(target)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # what is not empty stays
            for path in made:
                path.rmdir()


@contextmanager
def atomic_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a new folder that takes the place of `target` if the block succeeds, and is removed if it does not.

    Raises `FileExistsError` at the end where `target` is there and is not to be overwritten. Where the process is killed between putting the old
    folder aside and the new one in its place, the next call for the same `target` puts the old one back.
    """
    old = target.with_name(f".{os.getpid()}.old.{target.name}")
    with scratch_folder(target) as temporary:
        yield temporary
        if target.exists():
            if not overwrite:
                raise FileExistsError(errno.EEXIST, "exists already", str(target))
            os.replace(target, old)
        try:
            os.replace(temporary, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _clear_up(target: Path) -> None:
    """Remove, or put back, the folders that killed processes left beside `target`."""
    for path in target.parent.glob(f".*.{glob.escape(target.name)}"):
        mark = re.fullmatch(r"\.(\d+)\.(old\.)?" + re.escape(target.name), path.name)
        if mark is None or not path.is_dir():
            continue
        if _alive(int(mark[1])):
            raise Busy(f"{target} is being written by process {mark[1]}: wait for it, or remove {path} if that is another program")
        if mark[2] and not target.exists():
            os.replace(path, target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`; call it with the folder locked."""
    for path in folder.glob(".*"):
        mark = re.match(r"\.(\d+)\.", path.name)
        if mark is not None and path.is_file() and not _alive(int(mark[1])):
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    """Whether another process of that number runs. Our own number is one that a process in an earlier container had."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write JSON atomically, indented and with a final newline; NaN and infinity are refused."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_array(target: Path, array: NDArray[Any]) -> None:
    """Write a NumPy file atomically."""
    with atomic_path(target) as temporary, temporary.open("wb") as handle:
        np.save(handle, array, allow_pickle=False)


def read_json(source: Path) -> Any:
    """Read a JSON file; raises `ValueError` naming the file if it does not parse."""
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{source} is not valid JSON: {error}") from None
