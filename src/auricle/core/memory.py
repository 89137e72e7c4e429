"""How much memory there is, how much is free, and how much this process took."""

import contextlib
import os
import resource
import sys
from pathlib import Path

from auricle.core.errors import InputError


def check_free(what: Path, needed: int) -> None:
    """Refuse `what` where it needs more bytes than are free; raises `InputError`.

    Linux promises memory that is not there, and kills who takes it: asking beforehand leaves a message.
    """
    free = free_bytes()
    if needed > free:
        sizes = f"about {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free"
        raise InputError(f"{what}: needs {sizes}; close other programs, or crop the scan to the chest")


def peak_gib() -> float:
    """Largest resident memory of this process so far, plus that of the largest of its finished children, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    used = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return used * unit / 2**30


def free_bytes() -> int:
    """Memory that is free for this process: on Linux what the kernel and the limit of the control group leave, elsewhere what the machine has."""
    found = [total_bytes()]
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.exists():
        found += [int(line.split()[1]) * 1024 for line in meminfo.read_text(encoding="utf-8").splitlines() if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError, KeyError):  # no such limit, or "max"
        # Pages of files that were read are given up when memory is needed.
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()) + int(cached))
    return max(0, min(found))


def total_bytes() -> int:
    """Memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
