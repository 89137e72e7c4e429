"""Configurations survive the way to JSON and back; anything that does not fit is named."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle import recipes
from auricle.core.config import differences, digest, from_json, to_json
from auricle.stages.autoencoder import AutoencoderStage
from auricle.stages.cohort import CohortConfig
from auricle.stages.diffusion import DiffusionStage
from auricle.stages.finetune import FinetuneStage
from auricle.stages.generate import GenerateStage
from auricle.stages.pretrain import PretrainStage
from auricle.stages.refiner import RefinerStage


@dataclass(frozen=True)
class Inner:
    kind: Literal["inner"] = "inner"
    ratio: float = 0.5


@dataclass(frozen=True)
class Other:
    kind: Literal["other"] = "other"
    name: str = "x"


@dataclass(frozen=True)
class Outer:
    path: Path
    part: Inner | Other = field(default_factory=Inner)
    size: tuple[int, int, int] = (1, 2, 3)
    many: tuple[int, ...] = ()
    maybe: int | None = None
    flag: bool = False


@given(
    size=st.tuples(*[st.integers()] * 3), many=st.lists(st.integers()).map(tuple), maybe=st.none() | st.integers(), flag=st.booleans(),
    part=st.builds(Inner, ratio=st.floats(allow_nan=False, allow_infinity=False)) | st.builds(Other, name=st.text()),
)  # fmt: skip
def test_round_trip(size: tuple[int, int, int], many: tuple[int, ...], maybe: int | None, flag: bool, part: Inner | Other) -> None:
    value = Outer(Path("a/b"), part, size, many, maybe, flag)
    assert from_json(Outer, to_json(value)) == value


@pytest.mark.parametrize("name", get_args(recipes.RecipeName))
def test_every_recipe_survives_json(name: recipes.RecipeName) -> None:
    recipe = recipes.recipe(name)
    kinds = {
        "cohort": CohortConfig, "autoencoder": AutoencoderStage, "refiner": RefinerStage, "diffusion": DiffusionStage, "generate": GenerateStage,
        "pretrain": PretrainStage, "finetune": FinetuneStage,
    }  # fmt: skip
    for part, kind in kinds.items():
        config = getattr(recipe, part)
        assert config is None or from_json(kind, to_json(config)) == config


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"size": [1, 2]}, "config.size"),
        ({"size": [1, 2, "x"]}, "config.size[2]"),
        ({"flag": 1}, "config.flag"),
        ({"maybe": 1.5}, "config.maybe"),
        ({"part": {"kind": "inner"}}, "missing fields ['ratio']"),
        ({"part": {"kind": "third", "ratio": 1.0}}, "config.part.kind"),
        ({"bogus": 1}, "unknown fields ['bogus']"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=r"config") as caught:
        from_json(Outer, {**to_json(Outer(Path("a"))), **change})
    assert named in str(caught.value)


def test_digest_ignores_key_order_and_sees_values() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


def test_differences_name_the_leaf() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == ["a.c: 2 -> 3"]
