"""Shared fixtures: a tiny cohort of virtual patients, one torch thread a worker, and the same random inputs in every run."""

import os
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks: results are compared to the last bit

import pytest
import torch
from hypothesis import settings

from auricle.core import progress
from auricle.data.cohort import VirtualData
from auricle.stages import cohort
from auricle.stages.cohort import CohortConfig

settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    torch.set_num_threads(1)
    progress.configure("quiet")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight virtual patients on 32^3 voxels of 5 mm, prepared."""
    out = tmp_path_factory.mktemp("tiny") / "cohort"
    config = CohortConfig(VirtualData(patients=8, seed=3), size=(32, 32, 32), spacing=(5.0, 5.0, 5.0), margin=(4, 4, 4), workers=1)
    return cohort.run(config, out)
