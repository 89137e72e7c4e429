"""The writers of small scans, which lie beside the fuzz benchmark."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def files() -> Any:
    """`benchmarks/scan_files.py`."""
    spec = importlib.util.spec_from_file_location("scan_files", Path(__file__).parents[2] / "benchmarks" / "scan_files.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
