"""Pairs are read back where they lie."""

from pathlib import Path

import numpy as np

from auricle.data.cohort import VirtualData
from auricle.phantom import virtual_patient
from auricle.stages import cohort
from auricle.stages.cohort import CohortConfig
from auricle.stages.pairs import cohort_pairs


def test_a_prepared_case_lies_where_it_lay_without_its_margin(tmp_path: Path) -> None:
    size, spacing = (32, 32, 16), (5.0, 6.0, 9.0)
    cohort.run(CohortConfig(VirtualData(patients=4, seed=3), size=size, spacing=spacing, margin=(4, 2, 6), workers=1), tmp_path / "cohort")
    pairs = cohort_pairs(tmp_path / "cohort", "train", "validation", "test")
    assert [i.id for i in pairs.items] == [f"virtual-3-000{k}" for k in range(4)]
    for k, item in enumerate(pairs.items):
        case = virtual_patient(3, k, size, spacing)
        assert np.allclose(item.affine, case.affine, atol=1e-4)
        image, label = pairs.hu(k)
        assert np.array_equal(label, case.label)
        # The noise is another on a wider grid.
        assert np.corrcoef(image.ravel(), case.image.ravel())[0, 1] > 0.99
