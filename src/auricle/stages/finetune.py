"""Stage 6: fine-tune the segmenter on labeled cases, with or without generated pairs and a pre-trained encoder."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from auricle.core import progress
from auricle.core.anatomy import LABEL_COUNT
from auricle.core.config import differences, from_json, to_json
from auricle.core.errors import InputError
from auricle.core.files import read_json
from auricle.core.runs import Run, finished
from auricle.data import augment
from auricle.data.augment import AugmentConfig
from auricle.losses.segmentation import dice_cross_entropy
from auricle.metrics import overlap
from auricle.models.segmenter import Segmenter, SegmenterConfig
from auricle.stages.pairs import Grid, Pairs, Triple, cohort_pairs, generated_pairs
from auricle.stages.pretrain import check_patch, hold_out
from auricle.stages.weights import for_inference, load_state, read_model, save_model
from auricle.training.loop import FitConfig, Hardware, Plan, fit


@dataclass(frozen=True)
class FinetuneStage:
    """How the segmenter is fine-tuned."""

    cohort: Path
    """Folder of a prepared cohort: its training split is the ground truth."""
    generated: Path | None = None
    """Folder of generated pairs to mix in."""
    ratio: float = 3.0
    """Generated pairs for each labeled case, where `generated` is given."""
    pretrained: Path | None = None
    """Folder of a pre-trained U-Net, whose encoder is taken over; the decoder starts anew."""
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
        if self.ratio < 0:
            raise ValueError(f"--ratio must not be negative, is {self.ratio}")
        check_patch(self.patch, self.network)


def run(config: FinetuneStage, out: Path) -> Path:
    """Fine-tune into `out`. Returns `out`."""
    inputs = {"cohort": finished(config.cohort, "cohort")}
    if config.generated is not None:
        inputs["generated"] = finished(config.generated, "generate")
    if config.pretrained is not None:
        inputs["pretrained"] = finished(config.pretrained, "pretrain")
    this = Run(out, "finetune", config, inputs)
    if this.done:
        progress.report(f"{out}: segmenter is fine-tuned")
        return out
    # Early stopping looks at labeled cases alone: generated ones would flatter an arm that trained on their like.
    train, held_out = hold_out(cohort_pairs(config.cohort, "train"), config.seed)
    real = len(train)
    if config.generated is not None:
        train = mix(train, generated_pairs(config.generated), round(config.ratio * (real + len(held_out))))
    torch.manual_seed(config.seed)
    network = Segmenter(config.network, outputs=LABEL_COUNT)
    if config.pretrained is not None:
        transfer_encoder(network, config.pretrained)
    config.hardware.fabric()
    this.begin()

    def loss(net: nn.Module, indices: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        device = next(net.parameters()).device
        image, label = (t.to(device) for t in train.batch(indices, config.augment, generator, config.patch, config.focus))
        return {"loss": dice_cross_entropy(net(image), label)}

    plan = Plan(len(train), loss, lambda net: validate(net, held_out), "dice", "max")
    facts = fit(this, network, plan, config.fit, config.hardware, config.seed, f"finetune {out.name}")
    facts |= {"labeled": real, "generated": len(train) - real}
    save_model(this, network, {"network": config.network, "grid": train.grid, "training": facts})
    this.finish(**facts)
    return out


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


def validate(network: nn.Module, pairs: Pairs) -> dict[str, float]:
    """Mean Dice over the structures and the LAA's, on whole model grids."""
    rows = [overlap.dice(predict(network, pairs.plain(i)[0]).numpy(), pairs.plain(i)[1][0].numpy()) for i in range(len(pairs))]
    mean = overlap.average(rows)
    return {"dice": mean["mean"] or 0.0, "dice_LAA": mean["LAA"] or 0.0}


@torch.no_grad()
def predict(network: nn.Module, image: Tensor) -> Tensor:
    """Label map (X, Y, Z) of one image (1, 1, X, Y, Z) in network units, on the model grid."""
    device = next(network.parameters()).device
    logits: Tensor = network(image.to(device, memory_format=torch.channels_last_3d))
    return logits[0].argmax(0).to(torch.uint8).cpu()


def load(folder: Path) -> tuple[Segmenter, Grid]:
    """The fine-tuned segmenter of a finished run, and its model grid."""
    facts, state, _ = read_model(folder, "finetune")
    network = Segmenter(from_json(SegmenterConfig, facts["network"]), outputs=LABEL_COUNT)
    load_state(network, state, folder)
    return for_inference(network), from_json(Grid, facts["grid"])


def identity(folder: Path) -> str:
    """SHA-256 of the weights of the fine-tuned segmenter in `folder`."""
    return str(read_json(folder / "model.json")["sha256"])
