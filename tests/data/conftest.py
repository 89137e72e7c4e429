"""What writes and damages small scans lies with the benchmarks, which are not installed."""

import importlib
from typing import Any

import pytest


@pytest.fixture(scope="session")
def files() -> Any:
    """`benchmarks/scan_files.py`."""
    return importlib.import_module("benchmarks.scan_files")


@pytest.fixture(scope="session")
def fuzz() -> Any:
    """`benchmarks/fuzz_readers.py`."""
    return importlib.import_module("benchmarks.fuzz_readers")
