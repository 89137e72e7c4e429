"""What a run ran on, for its provenance, and how much memory it took."""

import contextlib
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import torch


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory (GiB), GPU if any, and versions; no host or user name."""
    return {
        "cpu": _processor(), "cores": os.cpu_count(), "memory_gib": round(_memory_bytes() / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "platform": f"{platform.system()} {platform.machine()}", "python": platform.python_version(), "torch": torch.__version__,
    }  # fmt: skip


def peak_gib() -> float:
    """Largest resident memory of this process so far, plus that of the largest of its finished children, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    used = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return used * unit / 2**30


def free_bytes() -> int:
    """Memory that is free for this process: on Linux what the kernel and the limit of the control group leave, elsewhere what the machine has."""
    found = [_memory_bytes()]
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.exists():
        found += [int(line.split()[1]) * 1024 for line in meminfo.read_text(encoding="utf-8").splitlines() if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError, KeyError):  # no such limit, or "max"
        # Pages of files that were read are given up when memory is needed.
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()) + int(cached))
    return max(0, min(found))


def _processor() -> str:
    with_name = Path("/proc/cpuinfo")
    if with_name.exists():
        for line in with_name.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
