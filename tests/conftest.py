"""Shared fixtures: a tiny cohort of virtual patients, and one torch thread a worker."""

from pathlib import Path

import pytest
import torch

from auricle.core import progress
from auricle.data.cohort import VirtualData
from auricle.stages import cohort
from auricle.stages.cohort import CohortConfig


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    torch.set_num_threads(1)
    progress.configure("quiet")


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight virtual patients on 32^3 voxels of 5 mm, prepared."""
    out = tmp_path_factory.mktemp("tiny") / "cohort"
    config = CohortConfig(VirtualData(patients=8, seed=3), size=(32, 32, 32), spacing=(5.0, 5.0, 5.0), margin=(4, 4, 4), workers=1)
    return cohort.run(config, out)
