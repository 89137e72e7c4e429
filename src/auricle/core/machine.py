"""What a run ran on, for its provenance."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from auricle.core.memory import total_bytes


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory (GiB), GPU if any, and versions; no host or user name."""
    return {
        "cpu": _processor(), "cores": os.cpu_count(), "memory_gib": round(total_bytes() / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "platform": f"{platform.system()} {platform.machine()}", "python": platform.python_version(), "torch": torch.__version__,
    }  # fmt: skip


def _processor() -> str:
    with_name = Path("/proc/cpuinfo")
    if with_name.exists():
        for line in with_name.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
