"""Folders that appear whole or not at all, and hashes that prove them unaltered."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from auricle.core.checksums import SUMS, read_checksums, verify_checksums, write_checksums
from auricle.core.errors import Busy, InputError
from auricle.core.files import atomic_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from auricle.core import files
target, moment = Path(sys.argv[1]), sys.argv[2]
if moment == "between":
    # Once the old folder is put aside, before the new one takes its place.
    real = os.replace
    def replace(a, b):
        if b == target:
            os.kill(os.getpid(), signal.SIGKILL)
        real(a, b)
    files.os.replace = replace
with files.atomic_folder(target, overwrite=True) as folder:
    (folder / "new").write_text("half of it")
    if moment == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def folder_of(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


@pytest.mark.parametrize("moment", ["writing", "between"])
def test_a_killed_process_loses_nothing_and_the_next_one_clears_up(tmp_path: Path, moment: str) -> None:
    target = tmp_path / "out"
    with atomic_folder(target) as folder:
        (folder / "old").write_text("kept")
    ended = subprocess.run([sys.executable, "-c", KILLED, str(target), moment], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(folder_of(tmp_path)) == 2
    with pytest.raises(KeyboardInterrupt), atomic_folder(target, overwrite=True):
        raise KeyboardInterrupt
    assert folder_of(tmp_path) == ["out"]
    assert (target / "old").read_text() == "kept"
    with atomic_folder(target, overwrite=True) as folder:
        (folder / "new").write_text("whole")
    assert folder_of(tmp_path) == ["out"]
    assert folder_of(target) == ["new"]


def test_what_another_process_made_meanwhile_is_kept(tmp_path: Path) -> None:
    opened = atomic_folder(tmp_path / "out")
    opened.__enter__()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").write_text("kept")
    with pytest.raises(FileExistsError):
        opened.__exit__(None, None, None)
    assert folder_of(tmp_path) == ["out"]
    assert folder_of(tmp_path / "out") == ["theirs"]


def test_the_folder_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / f".{os.getppid()}.out"
    theirs.mkdir()
    told = rf"out is being written by process {os.getppid()}: wait for it, or remove .*\.out"
    with pytest.raises(Busy, match=told), atomic_folder(tmp_path / "out"):
        pass
    assert theirs.exists()
    assert not (tmp_path / "out").exists()


def test_any_change_is_found_and_named(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.txt", "sub/b.bin"):
        (tmp_path / name).write_bytes(name.encode())
    write_checksums(tmp_path)
    assert list(read_checksums(tmp_path)) == ["a.txt", "sub/b.bin"]
    verify_checksums(tmp_path)
    (tmp_path / "sub/b.bin").write_bytes(b"sub/c.bin")
    with pytest.raises(InputError, match=r"sub/b\.bin: was altered: its SHA-256 is .*SHA256SUMS says"):
        verify_checksums(tmp_path)
    (tmp_path / "sub/b.bin").unlink()
    with pytest.raises(InputError, match=r"sub/b\.bin: is missing"):
        verify_checksums(tmp_path)


@pytest.mark.parametrize("line", [f"{'0' * 64}  ../secret", f"{'0' * 64}  /etc/passwd", "short  a.txt", f"{'0' * 64} a.txt"])
def test_lists_that_lead_outside_or_are_damaged_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / SUMS).write_text(line + "\n")
    with pytest.raises(InputError, match="is damaged at"):
        verify_checksums(tmp_path)
