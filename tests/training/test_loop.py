"""The fit loop: broken runs end where unbroken ones do, early stopping keeps the best, bad numbers are refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auricle.core.errors import InputError
from auricle.core.runs import Run, read_metrics
from auricle.models.segmenter import Segmenter, SegmenterConfig
from auricle.training import checkpoint, loop
from auricle.training.ema import EMA
from auricle.training.loop import FitConfig, Hardware, Plan, batch_indices, fit
from auricle.training.muon import Muon, orthogonalize, split_parameters
from auricle.training.stopping import Stopping

CPU = Hardware(accelerator="cpu")
ITEMS = 5


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


def make_plan(kill_at: int | None = None) -> Plan:
    calls = [0]

    def loss(network: nn.Module, indices: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        calls[0] += 1
        if calls[0] == kill_at:
            raise Killed
        x = torch.randn(len(indices), 1, 8, 8, 8, generator=generator) + torch.tensor(indices)[:, None, None, None, None]
        return {"loss": (network(x) - x.square()).square().mean()}

    def validate(network: nn.Module) -> dict[str, float]:
        x = torch.linspace(-1, 1, 512).reshape(1, 1, 8, 8, 8)
        return {"error": float((network(x) - x.square()).square().mean())}

    return Plan(ITEMS, loss, validate, "error", "min")


def train(folder: Path, config: FitConfig, kill_at: int | None = None) -> tuple[str, dict[str, Any]]:
    run = Run(folder, "finetune", config, {})
    run.begin()
    torch.manual_seed(0)
    network = Segmenter(SegmenterConfig(channels=(4, 8)), outputs=1)
    facts = fit(run, network, make_plan(kill_at), config, CPU, 0, "test")
    return checkpoint.weights_hash(network.state_dict()), facts


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, optimizer: str, ema: float | None) -> None:
    config = FitConfig(steps=23, batch_size=2, learning_rate=1e-2, schedule="one-cycle", validate_every=7, ema_decay=ema,
                       checkpoint_every=5, optimizer=optimizer)  # type: ignore[arg-type]  # fmt: skip
    whole, expected = train(tmp_path / "whole", config)
    measured = read_metrics(tmp_path / "whole")
    assert [r["step"] for r in measured] == [7, 14, 21, 23]
    for kill_at in (3, 9, 12):
        folder = tmp_path / f"broken{kill_at}"
        with pytest.raises(Killed):
            train(folder, config, kill_at)
        with pytest.raises(Killed):
            train(folder, config, 6)
        again, facts = train(folder, config)
        assert again == whole
        assert facts == expected
        assert read_metrics(folder) == measured
    untrained = Segmenter(SegmenterConfig(channels=(4, 8)), outputs=1)
    assert checkpoint.weights_hash(untrained.state_dict()) != whole


def test_early_stopping_keeps_the_best(tmp_path: Path) -> None:
    scores = iter([3.0, 1.0, 2.0, 2.0, 0.5])
    plan = Plan(ITEMS, make_plan().loss, lambda net: {"error": next(scores)}, "error", "min")
    run = Run(tmp_path / "r", "finetune", {}, {})
    run.begin()
    network = Segmenter(SegmenterConfig(channels=(4, 8)), outputs=1)
    facts = fit(run, network, plan, FitConfig(steps=None, epochs=300, batch_size=2, patience=2), CPU, 0, "test")
    # An epoch of five items in batches of two is three steps; the fourth validation uses up the patience.
    assert facts == {"steps": 12, "best_step": 6, "error": 1.0, "stopped_early": True}


@pytest.mark.parametrize("ema", [None, 0.9])
def test_what_is_kept_is_what_was_validated_best_killed_or_not(tmp_path: Path, ema: float | None) -> None:
    """The best lies in the middle, and what patience has used up is not forgotten; with averaged weights, these are validated and kept."""
    scores = {7: 3.0, 14: 1.0, 21: 2.0, 28: 2.0, 35: 2.0}
    config = FitConfig(steps=70, batch_size=2, learning_rate=1e-2, validate_every=7, patience=3, ema_decay=ema, checkpoint_every=5)

    def once(folder: Path, kill_at: int | None, seen: dict[int, str]) -> dict[str, Any]:
        def validate(network: nn.Module) -> dict[str, float]:
            step = list(scores)[len(read_metrics(folder))]
            seen[step] = checkpoint.weights_hash(network.state_dict())
            return {"error": scores[step]}

        run = Run(folder, "finetune", config, {})
        run.begin()
        torch.manual_seed(0)
        network = Segmenter(SegmenterConfig(channels=(4, 8)), outputs=1)
        facts = fit(run, network, replace(make_plan(kill_at), validate=validate), config, CPU, 0, "test")
        return {**facts, "weights": checkpoint.weights_hash(network.state_dict())}

    seen: dict[int, str] = {}
    whole = once(tmp_path / "whole", None, seen)
    assert whole == {"steps": 35, "best_step": 14, "error": 1.0, "stopped_early": True, "weights": seen[14]}
    with pytest.raises(Killed):
        once(tmp_path / "broken", 24, {})
    assert once(tmp_path / "broken", None, {}) == whole
    plain = tmp_path / "plain"
    if ema:
        config = replace(config, ema_decay=None)
        assert once(plain, None, {})["weights"] != whole["weights"]


def test_one_cycle_warms_up_and_ends_at_a_hundredth() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    config = FitConfig(steps=200, learning_rate=0.5, schedule="one-cycle")
    rates = []
    for step in range(200):
        loop._set_rate([optimizer], config, step, 200)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == rates[9] == pytest.approx(0.5, rel=0.01)
    assert all(a > b for a, b in pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(0.005, rel=0.02)
    loop._set_rate([optimizer], replace(config, schedule="constant"), 100, 200)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_the_bar_shows_the_loss_of_the_step_beside_the_best_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the loss is what is validated, the one does not hide the other."""
    good, shown = make_plan(), list[dict[str, float]]()

    @contextmanager
    def bar(*_: Any) -> Iterator[Any]:
        yield lambda step, values: shown.append(values)

    monkeypatch.setattr("auricle.training.loop.progress.bar", bar)
    plan = Plan(ITEMS, good.loss, lambda net: {"loss": 7.0}, "loss", "min")
    run = Run(tmp_path / "r", "finetune", {}, {})
    run.begin()
    fit(run, Segmenter(SegmenterConfig(channels=(4, 8)), outputs=1), plan, FitConfig(steps=3, validate_every=1), CPU, 0, "test")
    assert shown[-1]["best_loss"] == 7.0 != shown[-1]["loss"]


def test_a_loss_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    good = make_plan()
    plan = Plan(ITEMS, lambda net, i, g: {"loss": good.loss(net, i, g)["loss"] * float("nan")}, good.validate, "error", "min")
    run = Run(tmp_path / "r", "finetune", {}, {})
    run.begin()
    with pytest.raises(InputError, match=r"not finite at step 1: lower --fit\.learning-rate"):
        fit(run, Segmenter(SegmenterConfig(channels=(4, 8)), outputs=1), plan, FitConfig(steps=2), CPU, 0, "test")


@pytest.mark.parametrize(
    "values", [{"steps": 0}, {"steps": None}, {"batch_size": 0}, {"learning_rate": 0.0}, {"patience": 0}, {"validate_every": 0},
               {"clip_norm": 0.0}, {"ema_decay": 1.0}, {"ema_decay": -0.1}, {"weight_decay": -0.01}]
)
def test_impossible_settings_name_their_flag(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--fit"):
        FitConfig(**values)


def test_every_epoch_visits_every_item_once() -> None:
    seen = [i for step in range(15) for i in batch_indices(10, 4, 0, step)]
    epochs = [seen[10 * e : 10 * (e + 1)] for e in range(6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_the_last_part_of_training_may_visit_the_first_items_alone() -> None:
    plan = replace(make_plan(), items=10, first_items=3, first_from=0.5)
    visited = [plan.indices(4, 0, step, 20) for step in range(20)]
    assert {i for batch in visited[:10] for i in batch} == set(range(10))
    assert {i for batch in visited[10:] for i in batch} == set(range(3))
    assert visited[:10] == [batch_indices(10, 4, 0, step) for step in range(10)]


def test_orthogonalize_gives_singular_values_near_one() -> None:
    for shape in ((16, 40), (40, 16)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalize(matrix))
        assert 0.5 < float(values.min()) <= float(values.max()) < 1.35
        # The iteration as it is written down, one matrix product after the other.
        x = matrix / (matrix.norm() + 1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        assert torch.allclose(orthogonalize(matrix), x, atol=2e-3)
        # Direction is kept: the result has a positive inner product with the matrix.
        assert float((orthogonalize(matrix) * matrix).sum()) > 0


def test_muon_takes_inner_weights_and_lowers_the_loss() -> None:
    network = Segmenter(SegmenterConfig(channels=(4, 8)), outputs=1)
    inner, rest = split_parameters(network)
    assert len(inner) + len(rest) == len(list(network.parameters()))
    assert all(p.ndim == 5 for p in inner)
    assert not any(p is network.decoder.head.weight or p is network.encoder.stem.weight for p in inner)
    weight = nn.Parameter(torch.randn(6, 8))
    goal = torch.randn(6, 8)
    optimizer = Muon([weight], lr=0.05)
    before = float((weight - goal).detach().norm())
    for _ in range(250):
        optimizer.zero_grad()
        (weight - goal).square().sum().backward()
        optimizer.step()
    assert float((weight - goal).detach().norm()) < 0.3 * before


def test_ema_of_constant_weights_is_those_weights() -> None:
    network = nn.Linear(3, 2)
    ema = EMA(network, 0.99)
    old = {k: v.clone() for k, v in network.state_dict().items()}
    ema.update(network, 1)
    assert all(torch.allclose(ema.shadow[k], old[k]) for k in old)
    nn.init.zeros_(network.weight)
    ema.update(network, 1)
    assert torch.allclose(ema.shadow["weight"], old["weight"] * 2 / 11)


def test_nan_never_is_the_best() -> None:
    stopping = Stopping("max", 2)
    assert not stopping.update(float("nan"), 1)
    assert stopping.update(0.1, 2)
    assert not stopping.update(float("nan"), 3)
    assert (stopping.best, stopping.best_step, stopping.waited) == (0.1, 2, 1)


@pytest.mark.parametrize("damage", ["pickle", "truncated", "absent"])
def test_what_is_not_safetensors_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.safetensors"
    if damage == "pickle":
        torch.save({"a": torch.ones(2)}, path)
    elif damage == "truncated":
        checkpoint.save(path, {"a": torch.ones(100)}, {})
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        checkpoint.load(path)
