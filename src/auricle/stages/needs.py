"""What each stage needs, from its configuration alone: memory, arithmetic of the networks, and time outside of them.

Memory is what the stage holds at its fullest moment: a training step, the augmentation of an item before it, a validation, or the writing of
a checkpoint, each with the weights, the optimizer's state and the pairs in memory at that moment. It is counted as on a CPU; on a GPU, pairs
and augmentation stay in main memory. Arithmetic counts as 32 bits whatever ``--hardware.precision`` says.
"""

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from auricle.core.anatomy import LABEL_COUNT
from auricle.data.cohort import Split, open_cohort, split_patients
from auricle.metrics import memorization
from auricle.models.autoencoder import Autoencoder
from auricle.models.refiner import Refiner
from auricle.models.segmenter import Segmenter
from auricle.stages import generate, passes, refiner, restoration
from auricle.stages import pairs as stored
from auricle.stages.autoencoder import AutoencoderStage
from auricle.stages.cohort import CohortConfig
from auricle.stages.diffusion import DiffusionStage
from auricle.stages.evaluate import EvaluateStage
from auricle.stages.finetune import FinetuneStage
from auricle.stages.generate import GenerateStage
from auricle.stages.pairs import Grid, Item, Pairs, Triple
from auricle.stages.pretrain import PretrainStage, hold_out
from auricle.stages.refiner import RefinerStage
from auricle.training.cost import KERNEL_BYTES, Cost, optimizer_cost
from auricle.training.loop import FitConfig

PAIR_BYTES = 3
"""A voxel of a pair in memory: int16 HU and uint8 label."""
SURFACE_BYTES = 60
"""A voxel of a structure's box while distances to its surface are computed: SciPy's indices, offsets and their float64 squares."""
TEXTURE_BYTES, GRAIN_BYTES, SSIM_BYTES = 70, 105, 70
"""A voxel while textures, a residual's texture and SSIM are measured, the images not included (measured)."""
ROW_BYTES = 10
"""A voxel of a round trip that is judged: two label maps, the image and its error in HU."""
DESCRIPTOR_BYTES = 9 * 4 / memorization.STEP_MM**3
"""A mm^3 of a training case in the audit of copies: nine numbers a coarse voxel."""
AUGMENT_SECONDS, WRITE_SECONDS, SCORE_SECONDS, JUDGE_SECONDS = 120e-9, 130e-9, 220e-9, 270e-9
"""A voxel augmented, written as NIfTI, scored against its reference, and judged by the gate, on one core (AMD EPYC)."""
TEXTURE_SECONDS, GRAIN_SECONDS, RESTORE_SECONDS, ASSESS_SECONDS, AUDIT_SECONDS = 1250e-9, 2000e-9, 2900e-9, 1450e-9, 60e-9
"""A voxel that is measured for texture, learned from, restored, assessed after a round trip, and described for the audit."""
FIT_BYTES, FIT_SECONDS = 185, 1500e-9
"""A voxel of a pair that is warped to volumes, its nine channels (36 bytes) and its image included, on one core: eight rounds."""
CROP_SECONDS = 5e-9
"""A voxel of a case that is read to cut a patch from."""
STEP_SECONDS = 0.01
"""A step's calls and bookkeeping, however small the network."""

C = TypeVar("C")


@dataclass(frozen=True)
class Need:
    """What a stage takes beside interpreter and libraries."""

    bytes: int
    flops: float
    seconds: float
    """Time outside of the networks."""
    steps: int
    """Optimizer steps at most; for generate, evaluations of the denoiser if every candidate passes the gate; for evaluate, cases."""


class Known:
    """The cohort of a recipe, and the stages that come before the one looked at."""

    def __init__(self, cohort: CohortConfig) -> None:
        patients = open_cohort(cohort.data).patients
        splits = split_patients(patients, cohort.shares, cohort.seed)
        self.grid, self.wide = Grid(cohort.size, cohort.spacing), cohort.wide.size
        self.split: dict[Split, Pairs] = {
            name: Pairs([_item("cohort", p) for p, s in zip(patients, splits, strict=True) if s == name], self.grid)
            for name in ("train", "validation", "test")
        }
        self.before: list[Any] = []

    @property
    def voxels(self) -> int:
        """Voxels of the model grid."""
        return math.prod(self.grid.size)

    def latest(self, kind: type[C]) -> C:
        """The last stage of that kind before the one looked at."""
        return next(c for c in reversed(self.before) if isinstance(c, kind))

    def generated(self, count: int) -> Pairs:
        """That many generated pairs, each a patient of its own."""
        return Pairs([_item("generated", f"generated {i}") for i in range(count)], self.grid)

    def kept(self, pairs: Pairs, seen: float = math.inf) -> int:
        """Bytes of `pairs` in memory once `seen` of them were read; those of the cohort have a margin, generated ones have none."""
        voxels = sum(math.prod(self.wide) if item.id == "cohort" else self.voxels for item in pairs.items)
        return min(round(PAIR_BYTES * voxels * min(1.0, seen / len(pairs))), stored.MEMORY_BYTES)

    def view_bytes(self, size: Triple, batch: int) -> int:
        """Most that augmentation holds while a batch is made: the making of a view, and image and label map of each, twice when joined."""
        return passes.augmenting(self.wide, size, self.grid.spacing).peak_bytes + 2 * 5 * batch * math.prod(size)


def need(config: Any, known: Known) -> Need:
    """What the stage of that configuration needs."""
    table = {
        AutoencoderStage: _autoencoder, RefinerStage: _refiner, DiffusionStage: _diffusion, GenerateStage: _generate, PretrainStage: _pretrain,
        FinetuneStage: _finetune, EvaluateStage: _evaluate,
    }  # fmt: skip
    result: Need = table[type(config)](config, known)  # type: ignore[operator]
    return result


def length(fit: FitConfig, items: int) -> tuple[int, int]:
    """Steps at most, and validations among them, as `training.loop.fit` counts them."""
    epoch = max(1, math.ceil(items / fit.batch_size))
    steps = min(fit.steps or 2**62, (fit.epochs or 2**62) * epoch)
    return steps, math.ceil(steps / (fit.validate_every or epoch))


def _autoencoder(config: AutoencoderStage, known: Known) -> Need:
    train, held, test = (known.split[name] for name in ("train", "validation", "test"))
    step = passes.autoencoder_step(config.network, config.loss, config.fit.batch_size, config.patch or known.grid.size)
    check = passes.round_trip(config.network, known.grid.size)
    row = known.voxels * ROW_BYTES
    fitted = _on_pairs(config, known, train, held, step, check, optimizer_cost(lambda: Autoencoder(config.network), config.fit), row)
    # Texture and round trips follow, with all pairs in memory that were read.
    measured = min(len(train), restoration.MOST_CASES)
    kept = known.kept(train, max(measured, fitted.steps * config.fit.batch_size)) + known.kept(held)
    textured = row + known.voxels * GRAIN_BYTES
    assessed = known.kept(test) + row + max(check.peak_bytes, known.voxels * SSIM_BYTES)
    return Need(
        max(fitted.bytes, KERNEL_BYTES + step.parameter_bytes + kept + max(textured, assessed)),
        fitted.flops + len(test) * check.flops_forward,
        fitted.seconds + known.voxels * (measured * GRAIN_SECONDS + len(test) * ASSESS_SECONDS), fitted.steps,
    )  # fmt: skip


def _refiner(config: RefinerStage, known: Known) -> Need:
    train, held = known.split["train"], known.split["validation"]
    size = (min(a, b) for a, b in zip(config.patch, known.grid.size, strict=True))
    refining = functools.partial(passes.refining, config.network, size=tuple(size))
    fitted = _fit(
        config.fit, len(train), refining(batch=config.fit.batch_size, train=True), optimizer_cost(lambda: Refiner(config.network), config.fit),
        refining(batch=1, train=False), 4 * len(held), known.voxels * ROW_BYTES, config.fit.batch_size * known.voxels * CROP_SECONDS,
    )  # fmt: skip
    trip = passes.round_trip(known.latest(AutoencoderStage).network, known.grid.size)
    kept, cases = known.kept(train) + known.kept(held), len(train) + len(held)
    # Decoded images are mapped from their files; what is mapped counts as held.
    kept += 2 * cases * known.voxels
    return Need(
        kept + max(fitted.bytes, KERNEL_BYTES + trip.parameter_bytes + trip.peak_bytes), fitted.flops + cases * trip.flops_forward,
        fitted.seconds + cases * known.voxels * CROP_SECONDS, fitted.steps,
    )  # fmt: skip


def _diffusion(config: DiffusionStage, known: Known) -> Need:
    shape = known.latest(AutoencoderStage).network
    train, held = known.split["train"], known.split["validation"]
    views, grid = len(train) * config.views_of(len(train)), passes.latent_grid(shape, known.grid.size)
    encoding = passes.encoding(shape, known.grid.size)
    denoising = functools.partial(passes.denoising, config.network, shape.latent_channels, grid)
    update = optimizer_cost(lambda: passes.denoiser(config.network, shape.latent_channels), config.fit)
    step, check = denoising(config.fit.batch_size, True), denoising(2, False)
    fitted = _fit(config.fit, views, step, update, check, 4 * len(held), 0, 0.0)
    # Mean and SD in 32 bits; for a moment they lie in memory both one by one and joined.
    latents = [count * 2 * shape.latent_channels * math.prod(grid) * 4 for count in (views, len(held))]
    view = known.view_bytes(known.grid.size, 1) if views > len(train) else 0
    encoded = KERNEL_BYTES + sum(latents) + max(encoding.peak_bytes, view, *latents)
    return Need(
        known.kept(train) + known.kept(held) + encoding.parameter_bytes + max(encoded, fitted.bytes + sum(latents)),
        fitted.flops + (views + len(held)) * encoding.flops_forward,
        fitted.seconds + (views - len(train)) * known.voxels * AUGMENT_SECONDS, fitted.steps,
    )  # fmt: skip


def _generate(config: GenerateStage, known: Known) -> Need:
    shape, model = known.latest(AutoencoderStage).network, known.latest(DiffusionStage)
    batch = min(config.batch_size, config.count * (config.tries if config.gate else 1))
    sampling = passes.denoising(model.network, shape.latent_channels, passes.latent_grid(shape, known.grid.size), batch, False)
    decoding = passes.decoding(shape, known.grid.size, config.tile)
    levels = len(generate.levels(config, model.parameterization)) - 1
    evaluations = (2 * levels - 1 if config.sampler == "heun" else levels) * (1 if config.guidance in (0.0, 1.0) else 2)
    audited = [known.split["train"], known.split["validation"]] if config.gate and config.cohort is not None else []
    descriptors = sum(len(p) for p in audited) * math.prod(known.grid.size) * math.prod(known.grid.spacing) * DESCRIPTOR_BYTES
    refining = None
    if config.restore and config.refiner is not None:
        refining = passes.refining(known.latest(RefinerStage).network, 1, known.grid.size, False)
    fits = config.warp and (config.complete or bool(config.conditions.volume) or config.conditions.location_mm is not None)
    fitting = known.voxels * FIT_BYTES if fits else 0
    moments = (
        sampling.peak_bytes,
        4 * batch * known.voxels + refining.peak_bytes if refining else 0,
        # The pairs of a batch wait together, image (int16) and label map before and after the gate.
        4 * batch * known.voxels + max(decoding.peak_bytes, known.voxels * (TEXTURE_BYTES + ROW_BYTES), fitting),
        sum(known.kept(p) for p in audited),
    )
    judged = TEXTURE_SECONDS / generate.MEASURED_EVERY + JUDGE_SECONDS + WRITE_SECONDS
    judged += (RESTORE_SECONDS if config.restore else 0.0) + (FIT_SECONDS if fits else 0.0)
    return Need(
        KERNEL_BYTES + sampling.parameter_bytes + decoding.parameter_bytes + (refining.parameter_bytes if refining else 0) + round(descriptors)
        + max(moments),
        config.count * (evaluations * sampling.flops_forward / batch + decoding.flops_forward
                        + (refiner.STEPS * refining.flops_forward if refining else 0.0)),
        known.voxels * (config.count * judged + sum(len(p) for p in audited) * AUDIT_SECONDS), evaluations * math.ceil(config.count / batch),
    )  # fmt: skip


def _pretrain(config: PretrainStage, known: Known) -> Need:
    pairs = known.generated(known.latest(GenerateStage).count if config.generated is not None else 0)
    if config.cohort is not None:
        pairs = pairs + known.split["train"]
    return _segmenter(config, known, 1, *hold_out(pairs, config.seed))


def _finetune(config: FinetuneStage, known: Known) -> Need:
    train, held = hold_out(known.split["train"], config.seed) if config.hold_out == "share" else (known.split["train"], known.split["validation"])
    count = round(config.ratio * (len(train) + len(held)))
    train = train.take([i for _ in range(config.real_weight) for i in range(len(train))])
    if config.generated is not None:
        train = train + known.generated(count)
    return _segmenter(config, known, LABEL_COUNT, train, held)


def _segmenter(config: PretrainStage | FinetuneStage, known: Known, outputs: int, train: Pairs, held: Pairs) -> Need:
    step = passes.segmenting(config.network, outputs, config.fit.batch_size, config.patch or known.grid.size, True)
    check = passes.segmenting(config.network, outputs, 1, known.grid.size, False)
    return _on_pairs(config, known, train, held, step, check, optimizer_cost(lambda: Segmenter(config.network, outputs), config.fit))


def _evaluate(config: EvaluateStage, known: Known) -> Need:
    test = known.split["test"]
    predicting = passes.segmenting(known.latest(FinetuneStage).network, LABEL_COUNT, 1, known.grid.size, False)
    return Need(
        KERNEL_BYTES + predicting.parameter_bytes + known.kept(test) + max(predicting.peak_bytes, SURFACE_BYTES * known.voxels),
        len(test) * predicting.flops_forward, len(test) * known.voxels * SCORE_SECONDS, len(test),
    )  # fmt: skip


def _on_pairs(
    config: AutoencoderStage | PretrainStage | FinetuneStage, known: Known, train: Pairs, held: Pairs, step: Cost, check: Cost,
    update: tuple[int, int], check_bytes: int = 0,
) -> Need:  # fmt: skip
    """The fit loop on augmented pairs, validated on whole ones, where `check_bytes` pile up; pairs stay in memory as `stages.pairs` keeps them."""
    size, batch = config.patch or known.grid.size, config.fit.batch_size
    check = replace(check, largest_bytes=check.largest_bytes + check_bytes)
    fitted = _fit(config.fit, len(train), step, update, check, len(held), known.view_bytes(size, batch), batch * math.prod(size) * AUGMENT_SECONDS)
    kept = known.kept(train, fitted.steps * batch) + known.kept(held)
    return Need(fitted.bytes + kept, fitted.flops, fitted.seconds, fitted.steps)


def _fit(
    fit: FitConfig, items: int, step: Cost, update: tuple[int, int], check: Cost, checks: int, batch_bytes: int, batch_seconds: float
) -> Need:  # fmt: skip
    """The fit loop on so many items, each validation of which makes `checks` passes; a batch is made with `batch_bytes` in `batch_seconds`."""
    steps, validations = length(fit, items)
    state, update_flops = update
    moments = (
        step.peak_bytes,
        batch_bytes,
        step.parameter_bytes + check.peak_bytes,  # the weights are set aside while the averaged ones are judged
        step.parameter_bytes + state,  # a copy of everything, laid out for its file
    )
    return Need(
        KERNEL_BYTES + step.parameter_bytes + state + max(moments),
        steps * (step.flops + update_flops) + validations * checks * check.flops_forward, steps * (STEP_SECONDS + batch_seconds), steps,
    )  # fmt: skip


def _item(name: str, patient: str) -> Item:
    return Item(name, patient, Path(), Path(), None)
