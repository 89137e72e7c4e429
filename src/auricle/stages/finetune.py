"""Stage 6: fine-tune the segmenter on labeled cases, with or without generated pairs and a pre-trained encoder, or on generated pairs alone."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from auricle.core import progress
from auricle.core.anatomy import KEYS, LABEL_COUNT
from auricle.core.config import differences, from_json, to_json
from auricle.core.errors import InputError
from auricle.core.files import read_json
from auricle.core.runs import Run, finished
from auricle.core.seeds import seed_torch
from auricle.data import augment
from auricle.data.augment import AugmentConfig
from auricle.losses.segmentation import deep_supervision
from auricle.metrics import overlap
from auricle.models.segmenter import Segmenter, SegmenterConfig
from auricle.stages.hearts import least_parts
from auricle.stages.pairs import Grid, Item, Pairs, Triple, check_focus, check_grid, cohort_pairs, generated_pairs
from auricle.stages.pretrain import check_patch, hold_out
from auricle.stages.weights import for_inference, load_state, read_model, save_model
from auricle.training.loop import FitConfig, Hardware, Plan, fit

SHIPPED = "shipped"
DEFAULT_MODEL = Path(__file__).parents[1] / "weights" / "any-scan"
"""The segmenter that ships with the package (`python -m benchmarks.default_segmenter`)."""


@dataclass(frozen=True)
class FinetuneStage:
    """How the segmenter is fine-tuned."""

    cohort: Path
    """Folder of a prepared cohort: its training split is the ground truth."""
    generated: Path | None = None
    """Folder of generated pairs to mix in, or of a prepared cohort whose training split is."""
    ratio: float = 3.0
    """Generated pairs for each labeled case, where `generated` is given."""
    real_weight: int = 1
    """How often a labeled case is visited for each visit of a generated pair, where there are any; 0 trains on generated pairs alone, and validates
    on labeled cases."""
    real_from: float = 1.0
    """Share of the steps after which labeled cases alone are visited; 1 mixes to the end."""
    hold_out: Literal["share", "validation"] = "share"
    """Where early stopping looks: a tenth of the training split, as in the paper, or the cohort's validation split."""
    pretrained: Path | None = None
    """Folder of a pre-trained U-Net, whose encoder is taken over; the decoder starts anew."""
    initial: Path | None = None
    """Folder of a fine-tuned segmenter to start from, encoder, decoder and shape of the network; `shipped` is the one that comes with auricle."""
    network: SegmenterConfig = field(default_factory=SegmenterConfig)
    """Shape of the network."""
    augment: AugmentConfig = field(default_factory=augment.segmenter)
    """Augmentation of the training pairs."""
    patch: Triple | None = None
    """Voxels of the training patches; None trains on the whole model grid."""
    focus: float = 0.5
    """Share of the patches that are centered on a structure drawn at random."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(steps=None, epochs=300, patience=10))
    """Length and speed of the training; the paper stops after 10 epochs without improvement, at most 300."""
    hardware: Hardware = field(default_factory=Hardware)
    """Where it runs."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ratio) and self.ratio >= 0):
            raise ValueError(f"--ratio must be finite and not negative, is {self.ratio}")
        if self.real_weight < 0:
            raise ValueError(f"--real-weight must not be negative, is {self.real_weight}")
        if not 0.0 <= self.real_from <= 1.0:
            raise ValueError(f"--real-from must lie in 0..1, is {self.real_from}")
        if self.real_weight == 0 and (self.generated is None or self.ratio == 0 or self.real_from < 1):
            raise ValueError("--real-weight 0 trains on generated pairs alone: give --generated and a --ratio above 0, and no --real-from")
        if self.initial is not None and self.pretrained is not None:
            raise ValueError("--initial brings a whole segmenter, --pretrained an encoder: give one of them")
        check_focus(self.focus)
        if self.initial is None:
            check_patch(self.patch, self.network)


def run(config: FinetuneStage, out: Path) -> Path:
    """Fine-tune into `out`. Returns `out`."""
    inputs = {"cohort": finished(config.cohort, "cohort")}
    if config.generated is not None:
        inputs["generated"] = finished(config.generated, "cohort" if _is_cohort(config.generated) else "generate")
    if config.pretrained is not None:
        inputs["pretrained"] = finished(config.pretrained, "pretrain")
    if config.initial is not None:
        inputs["initial"] = identity(segmenter_folder(config.initial))
    this = Run(out, "finetune", config, inputs)
    if this.done:
        progress.report(f"{out}: segmenter is fine-tuned")
        return out
    labeled, held_out = labeled_pairs(config)
    often = 1 if config.generated is None else config.real_weight
    train = labeled.take([i for _ in range(often) for i in range(len(labeled))])
    real = len(train)
    if config.generated is not None:
        made = cohort_pairs(config.generated, "train") if _is_cohort(config.generated) else generated_pairs(config.generated)
        train = mix(train, made, round(config.ratio * (len(labeled) + len(held_out))))
        kept = {_mark(i) for i in (held_out + cohort_pairs(config.cohort, "test")).items}
        if seen := sorted(i.id for i in train.items[real:] if _mark(i) in kept):
            names = ", ".join(seen[:8])
            raise InputError(f"--generated {config.generated}: {config.cohort} stops early or tests on its cases {names}; give another cohort")
    if not len(train):
        raise InputError(f"--ratio {config.ratio:g} asks for no generated pair of {len(labeled) + len(held_out)} labeled cases: raise it")
    learned = (labeled if real else train).structures()
    if not least_parts(learned):
        told = ", ".join(learned) or "no structure"
        progress.notice(f"{config.cohort}: {told} alone is labeled, neither myocardium nor a chamber: `auricle segment` will find no heart with this")
    seed_torch(config.seed)
    network = Segmenter(config.network, outputs=LABEL_COUNT) if config.initial is None else _started(config.initial, train.grid, config.patch)
    check_grid(train.grid.size, network.config.multiple, config.patch, padded=True)
    if config.pretrained is not None:
        transfer_encoder(network, config.pretrained)
    config.hardware.fabric()
    this.begin()

    def loss(net: nn.Module, indices: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        device = next(net.parameters()).device
        image, label = (t.to(device) for t in train.batch(indices, config.augment, generator, config.patch, config.focus))
        return {"loss": deep_supervision(net(image, coarse=True), label)}

    plan = Plan(len(train), loss, lambda net: validate(net, held_out, config.patch), "dice", "max", real, config.real_from)
    facts = fit(this, network, plan, config.fit, config.hardware, config.seed, f"finetune {out.name}")
    facts |= {"labeled": len(labeled) if real else 0, "generated": len(train) - real}
    described = {
        "network": network.config, "grid": train.grid, "patch": config.patch, "mirrored": config.augment.flip_probability > 0,
        "structures": learned,
    }  # fmt: skip
    save_model(this, network, {**described, "training": facts})
    this.finish(**facts)
    return out


def labeled_pairs(config: FinetuneStage) -> tuple[Pairs, Pairs]:
    """Labeled cases to train on, and those where early stopping looks: never generated ones, which would flatter an arm that trained on such."""
    if config.hold_out == "share":
        found = hold_out(cohort_pairs(config.cohort, "train"), config.seed)
    else:
        found = cohort_pairs(config.cohort, "train"), cohort_pairs(config.cohort, "validation")
    if not len(found[1]):
        raise InputError(f"{config.cohort} has no validation split: take --hold-out share")
    if not found[1].structures():
        names = ", ".join(i.id for i in found[1].items[:8])
        raise InputError(f"{config.cohort}: nothing is labeled in the cases held out for early stopping ({names}): take another --hold-out or --seed")
    return found


def _mark(item: Item) -> str:
    """What a case is known by in any cohort: its content; of virtual patients the name says it."""
    return str(item.attributes.get("content_sha256", item.id))


def _is_cohort(folder: Path) -> bool:
    return (folder / "cases.json").exists()


def mix(real: Pairs, generated: Pairs, count: int) -> Pairs:
    """Labelled pairs and the first `count` generated ones; raises `InputError` where there are fewer or their grids differ."""
    if len(generated) < count:
        raise InputError(f"--ratio asks for {count} generated pairs, {len(generated)} are there: generate more or lower --ratio")
    return real + generated.take(range(count))


def transfer_encoder(network: Segmenter, folder: Path) -> None:
    """Copy the encoder's weights of a pre-trained U-Net into `network`; raises `InputError` where the shapes differ."""
    facts, state, _ = read_model(folder, "pretrain")
    changes = differences(facts["network"], to_json(network.config))
    if changes:
        raise InputError(f"{folder} was pre-trained with another network ({'; '.join(changes)})")
    prefix = "encoder."
    load_state(network.encoder, {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, folder)


def _started(folder: Path, grid: Grid, patch: Triple | None) -> Segmenter:
    """The segmenter in `folder` as a start, trainable."""
    network, theirs, _ = _read(segmenter_folder(folder))
    check_patch(patch, network.config)
    if any(abs(a / b - 1) > 0.1 for a, b in zip(grid.spacing, theirs.spacing, strict=True)):
        sizes = [" x ".join(f"{v:g}" for v in g.spacing) for g in (theirs, grid)]
        progress.notice(f"--initial {folder}: was trained at {sizes[0]} mm, this cohort has {sizes[1]} mm; a cohort of its spacing suits it better")
    return network


def segmenter_folder(given: Path) -> Path:
    """`given`, or the folder of the segmenter that comes with auricle where it is `SHIPPED` and no folder of that name is there."""
    return DEFAULT_MODEL if str(given) == SHIPPED and not given.exists() else given


def validate(network: nn.Module, pairs: Pairs, patch: Triple | None) -> dict[str, float]:
    """Mean Dice over the structures and the LAA's, on whole model grids."""
    rows = []
    for i in range(len(pairs)):
        image, label = pairs.plain(i)
        rows.append(overlap.dice(predict(network, image, patch).numpy(), label[0].numpy()))
    mean = overlap.average(rows)
    return {"dice": mean["mean"] or 0.0, "dice_LAA": mean["LAA"] or 0.0}


def predict(network: nn.Module, image: Tensor, window: Triple | None, mirror: bool = False) -> Tensor:
    """Label map (X, Y, Z) of one image (1, 1, X, Y, Z) in network units, on the model grid."""
    return probabilities(network, image, window, mirror)[0].max(0).indices.to(torch.uint8)


@torch.no_grad()
def probabilities(
    network: nn.Module, image: Tensor, window: Triple | None, mirror: bool = False, seen: Callable[[], None] = lambda: None
) -> Tensor:  # fmt: skip
    """Probabilities (1, 9, X, Y, Z) on the CPU of one image (1, 1, X, Y, Z) in network units.

    A `window` smaller than the image slides over it: views that overlap by half, blended by a Gaussian. `mirror` averages over the mirror images
    along x and y, which a network must have been trained on. `seen` is called after every view.
    """
    device = next(network.parameters()).device

    def view(x: Tensor) -> Tensor:
        x = x.to(device)
        total: Tensor | float = 0.0
        for axes in ((), (2,), (3,), (2, 3)) if mirror else ((),):
            logits: Tensor = network(x.flip(axes).contiguous(memory_format=torch.channels_last_3d))
            total = total + logits.softmax(1).flip(axes)
        assert isinstance(total, Tensor)
        seen()
        return (total / (4 if mirror else 1)).float().cpu().contiguous()

    if window is None or tuple(window) == tuple(image.shape[2:]):
        return view(image)
    from monai.inferers.utils import sliding_window_inference  # seconds to import, which other commands need not wait for

    blended = sliding_window_inference(image, window, 1, view, overlap=0.5, mode="gaussian", padding_mode="replicate")
    assert isinstance(blended, Tensor)
    return blended


@dataclass(frozen=True)
class Trained:
    """A fine-tuned segmenter as it is used."""

    network: Segmenter
    grid: Grid
    """The model grid."""
    window: Triple
    """Voxels that the network sees at a time, as in training."""
    mirrored: bool
    """Whether it was trained on mirror images too."""
    structures: tuple[str, ...] = KEYS
    """Keys of the structures that it has learned."""

    @property
    def parts(self) -> int:
        """Of myocardium and chambers a heart shows at least so many."""
        return least_parts(self.structures)


def load(folder: Path) -> Trained:
    """The fine-tuned segmenter of a finished run."""
    network, grid, facts = _read(folder)
    window = triple(facts.get("patch") or grid.size)
    return Trained(for_inference(network), grid, window, bool(facts.get("mirrored")), tuple(facts.get("structures", KEYS)))


def _read(folder: Path) -> tuple[Segmenter, Grid, dict[str, Any]]:
    """Network, model grid and facts of a fine-tuned segmenter; weights in half precision become whole ones."""
    facts, state, _ = read_model(folder, "finetune")
    network = Segmenter(from_json(SegmenterConfig, facts.get("network"), f"{folder}/model.json: network"), outputs=LABEL_COUNT)
    load_state(network, state, folder)
    return network, from_json(Grid, facts.get("grid"), f"{folder}/model.json: grid"), facts


def triple(values: Iterable[Any]) -> Triple:
    """Three whole numbers."""
    x, y, z = (int(v) for v in values)
    return x, y, z


def identity(folder: Path) -> str:
    """SHA-256 of the weights of the fine-tuned segmenter in `folder`; raises `InputError` where there is none."""
    if not (folder / "model.json").exists():
        raise InputError(f"{folder} holds no fine-tuned segmenter")
    facts = read_json(folder / "model.json")
    if not isinstance(facts, dict) or not isinstance(facts.get("sha256"), str):
        raise InputError(f"{folder}/model.json does not describe a model: copy the folder again")
    return str(facts["sha256"])
