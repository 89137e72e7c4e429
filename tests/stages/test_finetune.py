"""Fine-tuning: what its configuration refuses."""

from pathlib import Path
from typing import Any

import pytest

from auricle.core.errors import InputError
from auricle.stages import finetune
from auricle.stages.finetune import FinetuneStage

PAIRS = Path("pairs")


@pytest.mark.parametrize(("values", "message"), [
    ({"ratio": -1.0}, "--ratio"), ({"real_weight": -1}, "--real-weight must not be negative"), ({"real_from": 1.5}, "--real-from"),
    ({"real_weight": 0}, "give --generated"), ({"real_weight": 0, "generated": PAIRS, "ratio": 0.0}, "a --ratio above 0"),
    ({"real_weight": 0, "generated": PAIRS, "real_from": 0.5}, "no --real-from"),
    ({"initial": PAIRS, "pretrained": PAIRS}, "give one of them"), ({"patch": (30, 32, 32)}, "multiples"), ({"focus": 50.0}, "--focus is a share"),
])  # fmt: skip
def test_what_cannot_be_trained_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneStage(Path("cohort"), **values)


def test_cases_that_are_held_out_or_tested_on_are_not_mixed_in(tiny_cohort: Path, tmp_path: Path) -> None:
    """As those of the very cohort are, or of another split of its data."""
    with pytest.raises(InputError, match=r"stops early or tests on its cases virtual-3-000\d; give another cohort"):
        finetune.run(FinetuneStage(tiny_cohort, generated=tiny_cohort, ratio=1.0), tmp_path / "out")
    assert not (tmp_path / "out").exists()
