"""A run folder: what a stage was asked, what it did so far, and what it made.

    config.json      the stage's configuration and the fingerprints of its inputs, written first
    metrics.jsonl    one line a record, for curves
    last.safetensors the state to resume from; model.safetensors + model.json the result
    done.json        written last: the fingerprint of the configuration, the seconds it took, and the versions that made it
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from auricle import __version__
from auricle.core import config as configs
from auricle.core import progress
from auricle.core.errors import Busy, InputError
from auricle.core.files import read_json, remove_leftovers, write_json, write_text

MIN_FREE_BYTES = 64 * 2**20
_held: set[Path] = set()
"""Folders that this process has locked."""


class Run:
    """One stage's folder, opened for writing by one process at a time."""

    def __init__(self, folder: Path, stage: str, config: Any, inputs: Mapping[str, str]) -> None:
        self.folder = folder
        self.description = {"stage": stage, "config": configs.to_json(config), "inputs": dict(inputs)}
        self.fingerprint = configs.digest(self.description)
        self._started = time.monotonic()
        self._descriptor: int | None = None

    @property
    def done(self) -> bool:
        """Whether this very configuration has finished here."""
        return fingerprint_of(self.folder) == self.fingerprint

    def begin(self, *, renew: bool = False) -> bool:
        """Lock the folder and write config.json; raises `InputError` where the folder holds another run, is locked or cannot be written.

        With `renew`, a run of the same configuration whose inputs have changed is begun again. Returns whether it was.
        """
        existing = self.folder / "config.json"
        self._outdated(renew)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise InputError(f"cannot write to {self.folder}: {error.strerror}") from None
        if free < MIN_FREE_BYTES:
            raise InputError(f"{self.folder}: only {free / 2**20:.0f} MiB free on this disk")
        if not os.access(self.folder, os.W_OK):
            raise InputError(f"cannot write to {self.folder}: permission denied")
        self._lock()
        try:
            outdated = self._outdated(renew)  # another process may have begun a run of its own before the lock
        except InputError:
            self.release()
            raise
        remove_leftovers(self.folder)
        if self.done:
            # Another process finished between the look at done.json and the lock.
            self.release()
            raise Busy(f"{self.folder} was finished by another process just now: run the same command again")
        if outdated:
            (self.folder / "done.json").unlink(missing_ok=True)
        if outdated or not existing.exists():
            write_json(existing, self.description)
        return outdated

    def _outdated(self, renew: bool) -> bool:
        """Whether the folder holds this run of inputs that have changed, to be begun again; raises `InputError` where it holds another."""
        if not (self.folder / "config.json").exists():
            return False
        before = _description_of(self.folder)
        changes = _changes(before, self.description)
        outdated = renew and bool(changes) and {**before, "inputs": None} == {**self.description, "inputs": None}
        if changes and not outdated:
            raise InputError(f"{self.folder} holds another run ({'; '.join(changes[:4])}): choose another --out or remove that folder")
        return outdated

    def finish(self, **facts: Any) -> None:
        """Write done.json (adding the seconds of earlier, broken sittings) and drop what only a resume needs."""
        made = {"fingerprint": self.fingerprint, "seconds": round(self.seconds(), 1), "auricle": __version__, "torch": version("torch")}
        write_json(self.folder / "done.json", {**made, **facts})
        for leftover in ("last.safetensors", "best.safetensors", "sitting.json"):
            (self.folder / leftover).unlink(missing_ok=True)
        self.release()

    def abandon(self) -> None:
        """Forget a run that could not start on its input, so that it can be started again with other flags."""
        (self.folder / "config.json").unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Give the lock back."""
        (self.folder / "lock").unlink(missing_ok=True)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard(self.folder.resolve())

    def seconds(self) -> float:
        """Seconds spent on this run in all sittings."""
        sitting = self.folder / "sitting.json"
        before = float(read_json(sitting)["seconds"]) if sitting.exists() else 0.0
        return before + time.monotonic() - self._started

    def save_time(self) -> None:
        """Remember the seconds spent so far; called when a checkpoint is written."""
        spent = self.seconds()
        self._started = time.monotonic()
        write_json(self.folder / "sitting.json", {"seconds": spent})

    def log(self, **record: Any) -> None:
        """Append one record to metrics.jsonl."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the records after `step`, which a resumed run will write again."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            kept = [record for record in read_metrics(self.folder) if record["step"] <= step]
            write_text(path, "".join(json.dumps(record) + "\n" for record in kept))

    def _lock(self) -> None:
        """An advisory lock that the system drops when its owner dies, so that a killed run never locks its folder."""
        lock = self.folder / "lock"
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if self.folder.resolve() not in _held:
                raise Busy(f"{self.folder} is in use by {_owner(lock)}") from None
            return
        except OSError:
            # Some network file systems have no locks: better to run unlocked than not at all.
            os.close(descriptor)
            progress.notice(f"{self.folder}: this file system has no locks; do not start the same run twice")
            return
        if not _is_file(lock, descriptor):
            os.close(descriptor)
            raise Busy(f"{self.folder} was given back by another process just now: run the same command again")
        _held.add(self.folder.resolve())
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._descriptor = descriptor


def held_elsewhere(folder: Path) -> bool:
    """Whether another process works in `folder` at this moment."""
    try:
        with (folder / "lock").open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return folder.resolve() not in _held
    except OSError:
        return False
    return False


def _owner(lock: Path) -> str:
    try:
        return f"process {lock.read_text(encoding='utf-8').strip()}"
    except OSError:
        return "another process"


def _is_file(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one of that name: its owner removes a lock file when it gives it back."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is another than before, in words: settings with both values; of inputs, whose fingerprints tell a reader nothing, the names."""
    keep = {"stage", "config"}
    settings = configs.differences({k: before.get(k) for k in keep}, {k: now.get(k) for k in keep})
    old, new = before.get("inputs") or {}, now.get("inputs") or {}
    inputs = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    return [line.removeprefix("config.") for line in settings] + [f"the {name} it was made from has changed" for name in inputs]


def fingerprint_of(folder: Path) -> str | None:
    """Fingerprint of the finished run in `folder`; None where nothing has finished."""
    marker = folder / "done.json"
    return str(read_json(marker)["fingerprint"]) if marker.exists() else None


def finished(folder: Path, stage: str) -> str:
    """Fingerprint of a finished `stage` in `folder`; raises `InputError` where there is none."""
    fingerprint = fingerprint_of(folder)
    if fingerprint is None:
        raise InputError(f"{folder} holds no finished {stage}: run `auricle {stage} --out {folder}` first")
    found = _description_of(folder).get("stage")
    if found != stage:
        raise InputError(f"{folder} holds a run of `auricle {found}`, not of `auricle {stage}`")
    return fingerprint


def input_of(folder: Path, name: str) -> str | None:
    """Fingerprint of the input `name` of the run in `folder`; None where it has none of that name."""
    found = (_description_of(folder).get("inputs") or {}).get(name)
    return None if found is None else str(found)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All records of metrics.jsonl; a last line cut short by a kill is left out."""
    path = folder / "metrics.jsonl"
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _description_of(folder: Path) -> dict[str, Any]:
    try:
        description = read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} is not a run folder: {error}") from None
    if not isinstance(description, dict):
        raise InputError(f"{folder}/config.json is not a run's configuration")
    return description

