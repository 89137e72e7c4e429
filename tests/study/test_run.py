"""What one stage refuses costs those that need it, and no others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from auricle.core.errors import InputError
from auricle.core.runs import Run, fingerprint_of
from auricle.study.plan import Step
from auricle.study.run import run_steps


@dataclass(frozen=True)
class Needs:
    source: Path | None = None


def make(config: Any, out: Path) -> Path:
    run = Run(out, "cohort", config, {})
    run.begin()
    run.finish()
    return out


def refuse(config: Any, out: Path) -> Path:
    raise InputError(f"{out}: cannot be made")


def test_what_does_not_need_a_refused_stage_is_finished(tmp_path: Path) -> None:
    a, b, c, d, e = (tmp_path / name for name in "abcde")
    steps = [Step("a", make, Needs(), a), Step("b", refuse, Needs(a), b), Step("c", make, Needs(b), c), Step("e", make, Needs(c), e),
             Step("d", make, Needs(a), d)]  # fmt: skip
    with pytest.raises(InputError, match=r"b: cannot be made \(3 of 5 stages are missing"):
        run_steps(steps)
    assert [fingerprint_of(f) is not None for f in (a, b, c, d, e)] == [True, False, False, True, False]
    with pytest.raises(InputError, match=r"b: cannot be made$"):
        run_steps([Step("b", refuse, Needs(a), b)])
