"""Stage 4: generate pairs of image and label map, as asked for, and keep those that pass the gate."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from auricle.core import progress
from auricle.core.config import to_json
from auricle.core.errors import InputError
from auricle.core.files import read_json, write_json
from auricle.core.runs import Run, finished, input_of
from auricle.core.seeds import torch_generator
from auricle.data import conditions
from auricle.data.conditions import Conditions
from auricle.data.nifti import write_nifti
from auricle.data.preprocess import ModelGrid
from auricle.diffusion.parameterization import Kind
from auricle.diffusion.samplers import SamplerName
from auricle.metrics import anatomy, texture
from auricle.metrics.texture import Grain
from auricle.models.autoencoder import Autoencoder
from auricle.stages import autoencoder as autoencoder_stage
from auricle.stages import diffusion as diffusion_stage
from auricle.stages import gate, restoration, timing
from auricle.stages import refiner as refiner_stage
from auricle.stages.diffusion import LatentModel
from auricle.stages.gate import Audit, Verdict
from auricle.stages.refiner import Trained
from auricle.stages.sampling import decode, sample_latents, sigmas_for
from auricle.stages.timing import Timings

DEFAULT_RUN = Path("runs/demo")
MEASURED_EVERY = 4
"""Texture before restoration is measured on one candidate of so many: it takes half a second."""


@dataclass(frozen=True)
class GenerateStage:
    """What is generated, and how."""

    autoencoder: Path = DEFAULT_RUN / "autoencoder"
    """Folder of a trained autoencoder."""
    diffusion: Path = DEFAULT_RUN / "diffusion"
    """Folder of a trained diffusion model."""
    cohort: Path | None = None
    """Folder of the cohort it was trained on, for the audit of copies; without it there is none."""
    refiner: Path | None = None
    """Folder of a trained refiner of that autoencoder's images, for what is not soft tissue."""
    count: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """Good pairs to generate. Candidate k of a seed is the same whatever the count and, up to rounding, the batch size."""
    conditions: Annotated[Conditions, tyro.conf.arg(name="")] = field(default_factory=Conditions)
    """What is asked for."""
    complete: bool = True
    """Take what is not asked for from the training cases' distribution: one case's conditions, with volumes and a location near its own; else the
    model is free."""
    guidance: float = 1.0
    """Weight of classifier-free guidance: 1 follows the conditions, more exaggerates them and evaluates the network twice a step."""
    warp: bool = True
    """Warp each pair, image and label map together, so that its structures come near the volumes asked for, and its heart near the location. It stops
    at a threshold: rounding, as by another batch size or in tiles, may then move a border a little."""
    sampler: SamplerName = "dpmpp"
    """How the noise is removed; ddpm is the paper's, with its 1000 steps."""
    steps: int = 20
    """Steps of the sampler; heun evaluates the network twice a step."""
    variation: float = 1.0
    """How far pairs may depart from a labeled case: 1 starts from noise; less, from a training view under that share of noise (SDEdit, Meng 2022).

    A generator of few cases draws better shapes so; the audit of copies says when it departs too little.
    """
    shift: float = 5.0
    """For a rectified flow: above 1, more of the steps lie at high noise, where the anatomy is decided. 1 spaces them evenly."""
    restore: bool = True
    """Put back what the autoencoder takes from images: the noise of soft tissue and, where there is a refiner, the rest."""
    gate: bool = True
    """Repair small faults of the label maps, and reject pairs of impossible anatomy and copies of training cases."""
    tries: int = 4
    """Candidates for each pair asked for, at most; if they do not suffice, the least faulty ones fill up, with a notice."""
    tile: int | None = None
    """Decode in tiles of so many latent voxels: the same result in less memory. None decodes at once."""
    batch_size: int = 4
    """Pairs sampled at a time."""
    seed: int = 0
    """Seed of the noise."""

    def __post_init__(self) -> None:
        if min(self.count, self.steps, self.batch_size, self.tries) < 1 or (self.tile is not None and self.tile < 1):
            raise ValueError("--count, --steps, --batch-size, --tries and --tile must be at least 1")
        if not 0 < self.variation <= 1:
            raise ValueError(f"--variation must lie above 0 and at most at 1, is {self.variation}")
        if self.shift <= 0:
            raise ValueError(f"--shift must be positive, is {self.shift}")
        if self.guidance < 0:
            raise ValueError(f"--guidance must not be negative, is {self.guidance}")


@dataclass(frozen=True)
class Candidate:
    """One pair before it is kept or rejected."""

    name: str
    requested: Conditions
    image: NDArray[np.int16]
    """HU; restored, unless the label map failed."""
    decoded: dict[str, float]
    """SD in HU of each tissue before restoration, of every `MEASURED_EVERY`-th candidate."""
    volumes_ml: dict[str, float]
    """Volumes as decoded, before the warp to those asked for."""
    location_mm: float | None
    """Location as decoded."""
    retimed: bool
    """Whether the contrast timing asked for had to be put in."""
    specks: float
    """Share of specks before repair."""
    verdict: Verdict
    donor: int | None
    """Number of the training case whose conditions it was given."""


@dataclass(frozen=True)
class Maker:
    """Everything that makes candidates."""

    config: GenerateStage
    decoder: Autoencoder
    model: LatentModel
    grid: ModelGrid
    grains: list[Grain]
    refiner: Trained | None
    audit: Audit | None
    timings: Timings
    views: diffusion_stage.Views | None = None
    """What `variation` starts from; None starts from noise."""
    restore_all: bool = False
    """Restore also candidates whose label map failed."""

    def name(self, index: int) -> str:
        """Name of candidate `index`."""
        return f"generated-{self.config.seed}-{index:04d}"

    def requested(self, index: int) -> Conditions:
        """What candidate `index` is asked to be."""
        c = self.config
        if not c.complete:
            return c.conditions
        generator = torch_generator(c.seed, "conditions", index)
        if self.views is None:
            sd = self.model.location_sd_mm
            return conditions.complete(c.conditions, self.model.training, self.model.scales, index, generator, location_sd_mm=sd)
        own = self.views.conditions[self.start(index)][None]
        spread = conditions.VOLUME_SPREAD * c.variation
        return conditions.complete(c.conditions, own, self.model.scales, index, generator, spread, self.model.training)

    def start(self, index: int) -> int:
        """Number of the view that candidate `index` starts from: one that fulfills what is asked for, where there is one."""
        assert self.views is not None
        generator = torch_generator(self.config.seed, "start", index)
        turn = int(torch.randint(2**31, (), generator=generator))
        return conditions.donor(self.config.conditions, self.views.conditions, self.model.scales, turn, generator)

    def make(self, indices: list[int]) -> list[Candidate]:
        """Sample, decode, restore and judge candidates `indices`."""
        asked = [self.requested(i) for i in indices]
        starts = None if self.views is None else self.model.whiten(self.views.mean[[self.start(i) for i in indices]])
        latents = self.sample(indices, asked, starts)
        return [self._finish(i, a, latent) for i, a, latent in zip(indices, asked, latents, strict=True)]

    def sample(self, indices: list[int], asked: list[Conditions], starts: Tensor | None = None) -> Tensor:
        """Latents of candidates `indices`, (len(indices), C, X, Y, Z), the noise added to `starts` where they are given."""
        c = self.config
        generators = [torch_generator(c.seed, "generate", i) for i in indices]
        return sample_latents(self.model, c.sampler, levels(c, self.model.parameterization), asked, generators, c.guidance, starts)

    def donor(self, index: int) -> int | None:
        """Number of the training case whose conditions candidate `index` is given; None where it is given none, or starts from one."""
        c = self.config
        if not c.complete or self.views is not None or not len(self.model.training):
            return None
        generator = torch_generator(c.seed, "conditions", index)
        return conditions.donor(replace(c.conditions, location_mm=None), self.model.training, self.model.scales, index, generator)

    def _finish(self, index: int, asked: Conditions, latent: Tensor) -> Candidate:
        c, spacing = self.config, self.grid.spacing
        decoded = decode(self.decoder, latent, spacing, c.tile, asked if c.warp else None)
        image, label = decoded.image, decoded.label
        specks = anatomy.speck_share(label, float(np.prod(spacing)) / 1000.0)
        verdict = gate.judge(label, spacing, mend=c.gate, structures=self.model.structures)
        before = {}
        if index % MEASURED_EVERY == 0:
            before = {k: t.sd_hu for k, t in texture.textures(image, label, spacing).items() if t is not None}
        image = timing.obey(image, label, spacing, asked.contrast, self.timings, c.seed, index)
        retimed = image is not decoded.image
        wanted = verdict.passed or not c.gate or self.restore_all
        if wanted:
            image = restored(image, verdict.label, spacing, self.grains, self.refiner, asked.metal, c.seed, index)
        else:
            image = restoration.restore(image, verdict.label, spacing, [], c.seed, index)
        if self.audit is not None:
            verdict = gate.audited(verdict, image, spacing, self.audit)
        kept = np.rint(image).astype(np.int16)
        return Candidate(self.name(index), asked, kept, before, decoded.volumes_ml, decoded.location_mm, retimed, specks, verdict, self.donor(index))


def restored(
    image: NDArray[Any], label: NDArray[np.uint8], spacing: tuple[float, float, float], grains: list[Grain], refiner: Trained | None,
    metal: bool | None, seed: int, index: int,
) -> NDArray[np.float32]:  # fmt: skip
    """A decoded image (HU) as candidate `index` with that label map gets it back from refiner and restoration, where there are such."""
    refined = None if refiner is None else refiner.refine(image, label, restoration.loudness(grains, seed, index), metal, seed, index)
    return restoration.restore(image, label, spacing, grains, seed, index, refined)


def run(config: GenerateStage, out: Path) -> Path:
    """Write ``images`` and ``labels`` (each ``ID.nii.gz``) and ``pairs.json`` into `out`; returns `out`.

    Candidates that are judged already are kept.
    """
    inputs = {"autoencoder": finished(config.autoencoder, "autoencoder"), "diffusion": finished(config.diffusion, "diffusion")}
    if config.cohort is not None:
        inputs["cohort"] = finished(config.cohort, "cohort")
        if config.gate and inputs["cohort"] != input_of(config.diffusion, "cohort"):
            raise InputError(f"{config.cohort} is not what {config.diffusion} was trained on: copies of its cases would go unseen; name that cohort")
    if config.refiner is not None:
        inputs["refiner"] = finished(config.refiner, "refiner")
    this = Run(out, "generate", config, inputs)
    if this.done:
        progress.report(f"{out}: pairs are generated")
        return out
    maker = load(config)
    if config.gate and config.cohort is None:
        progress.notice(f"{out}: copies of training cases are not looked for, since the cohort of {config.diffusion} is not there or not named")
    this.begin()
    records = _fill(maker, out)
    kept, judged = [r for r in records if r["kept"]], summarize(records)
    write_json(out / "pairs.json", {
        "synthetic": True, "size": maker.grid.size, "spacing": maker.grid.spacing, "seed": config.seed, "sampler": config.sampler,
        "steps": len(levels(config, maker.model.parameterization)) - 1, "variation": config.variation,
        "model_sha256": read_json(config.diffusion / "model.json")["sha256"],
        "autoencoder_sha256": read_json(config.autoencoder / "model.json")["sha256"],
        "refiner_sha256": read_json(config.refiner / "model.json")["sha256"] if config.refiner is not None and maker.refiner is not None else None,
        "asked": config.conditions.describe(),
        "complete_share": sum(p["complete"] for p in kept) / len(kept), "speck_share": float(np.mean([p["speck_share"] for p in kept])),
        "gate": judged, "pairs": kept,
    })  # fmt: skip
    this.finish()
    if config.gate:
        progress.report(f"{out}: {_told(judged)}")
    return out


def _told(gate: dict[str, Any]) -> str:
    """What the gate did, in a line."""
    common = ", ".join(f"{kind} ({count})" for kind, count in list(gate["reasons"].items())[:3])
    counts = f"{gate['passed']} of {gate['candidates']} candidates pass the gate ({gate['passed_before_repair']} are sound before any repair)"
    return f"{counts}{f'; what the others show: {common}' if common else ''}"


def load(config: GenerateStage) -> Maker:
    """The models and what goes with them; raises `InputError` where they do not belong together."""
    facts: dict[str, Any] = read_json(config.diffusion / "model.json")
    if facts["autoencoder_sha256"] != read_json(config.autoencoder / "model.json")["sha256"]:
        raise InputError(f"{config.diffusion} was trained on the latents of another autoencoder than {config.autoencoder}")
    grid = ModelGrid(tuple(facts["grid"]["size"]), tuple(facts["grid"]["spacing"]))
    decoder, model = autoencoder_stage.load(config.autoencoder), diffusion_stage.load(config.diffusion)
    trained = refiner_stage.load(config.refiner, config.autoencoder) if config.restore and config.refiner is not None else None
    grains = restoration.load(config.autoencoder) if config.restore else []
    audit = gate.audit(config.cohort) if config.cohort is not None and config.gate else None
    levels(config, model.parameterization)  # what cannot be sampled is said before anything is written
    views = diffusion_stage.views(config.diffusion) if config.variation < 1 else None
    timings = timing.learn([conditions.decode(row, model.scales).contrast for row in model.training], model.ventricles_hu.tolist())
    return Maker(config, decoder, model, grid, grains, trained, audit, timings, views)


def summarize(records: list[dict[str, Any]]) -> dict[str, Any]:
    """What the gate did: candidates, how many passed before and after repair, copies, and how many show each kind of fault."""
    return {
        "candidates": len(records), "passed_before_repair": sum(not r["faults_before"] for r in records),
        "passed_anatomy": sum(len(r["faults"]) == r["copy"] for r in records), "passed": sum(not r["faults"] for r in records),
        "copies": sum(r["copy"] for r in records), "reasons_before_repair": gate.reasons([r["faults_before"] for r in records]),
        "reasons": gate.reasons([r["faults"] for r in records]),
    }  # fmt: skip


def _fill(maker: Maker, out: Path) -> list[dict[str, Any]]:
    """Judge candidates in order until enough pass; returns the records of all that count, those to keep marked."""
    config, records = maker.config, []
    most = config.count * (config.tries if config.gate else 1)
    with progress.bar("generate", config.count) as update:
        good = 0
        for start in range(0, most, config.batch_size):
            chunk = list(range(start, min(start + config.batch_size, most)))
            for record in _records(maker, out, chunk):
                wanted = good < config.count
                if wanted:
                    good += not record["faults"] or not config.gate
                    records.append({**record, "kept": not record["faults"] or not config.gate})
            update(good, {"candidates": len(records)})
            if good >= config.count:
                break
    if good < config.count:
        _fill_up(maker, out, records, config.count - good)
    keep = {r["id"] for r in records if r["kept"]}
    for folder in ("images", "labels"):
        for path in (out / folder).glob("generated-*.nii.gz"):
            if path.name.removesuffix(".nii.gz") not in keep:
                path.unlink()
    return records


def _records(maker: Maker, out: Path, chunk: list[int]) -> list[dict[str, Any]]:
    """Records of the candidates `chunk`, made where they are not there yet; the images of those that pass are written."""
    paths = {i: out / "candidates" / f"{maker.name(i)}.json" for i in chunk}
    missing = [i for i in chunk if not paths[i].exists()]
    for index, candidate in zip(missing, maker.make(missing) if missing else [], strict=True):
        if candidate.verdict.passed or not maker.config.gate:
            _write_pair(out, candidate, maker.grid)
        # Written last: its presence says that the candidate is judged and, if it passed, that its pair is whole.
        write_json(paths[index], describe(candidate, maker))
    return [read_json(paths[i]) for i in chunk]


def _fill_up(maker: Maker, out: Path, records: list[dict[str, Any]], lacking: int) -> None:
    """Keep the least faulty of the rejected pairs, copies last of all; made again, since only those that pass were restored and written."""
    maker = replace(maker, restore_all=True)
    order = sorted((i for i, r in enumerate(records) if not r["kept"]), key=lambda i: (records[i]["copy"], len(records[i]["faults"]), i))
    chosen = sorted(order[:lacking])
    common = next(iter(gate.reasons([records[i]["faults"] for i in chosen])), "none")
    progress.notice(
        f"{out}: only {maker.config.count - lacking} of {len(records)} candidates pass the gate; the {len(chosen)} least faulty fill up "
        f"(most often: {common}). Train longer, or raise --tries"
    )
    for start in range(0, len(chosen), maker.config.batch_size):
        part = chosen[start : start + maker.config.batch_size]
        for index, candidate in zip(part, maker.make(part), strict=True):
            _write_pair(out, candidate, maker.grid)
            # Restored, it may be another one than was judged.
            records[index] = {**describe(candidate, maker), "kept": True}


def levels(config: GenerateStage, kind: Kind) -> Tensor:
    """The noise levels of `sigmas_for` that `config` asks for."""
    return sigmas_for(kind, config.sampler, config.steps, config.shift, config.variation)


def describe(candidate: Candidate, maker: Maker) -> dict[str, Any]:
    """The record of a candidate: what was asked, what came out, and what the gate says."""
    v, voxel_ml = candidate.verdict, float(np.prod(maker.grid.spacing)) / 1000.0
    match = None
    if v.match is not None and v.match.index >= 0 and maker.audit is not None:
        match = {"case": maker.audit.ids[v.match.index], **{k: x for k, x in to_json(v.match).items() if k != "index"}}
    donor = maker.audit.ids[candidate.donor] if candidate.donor is not None and maker.audit is not None else None
    return {
        "id": candidate.name, "donor": donor, "requested": candidate.requested.describe(), "faults_before": v.faults_before, "faults": v.faults,
        "copy": v.copy, "audited": v.match is not None, "nearest": match, "complete": anatomy.is_complete(v.label, voxel_ml, maker.model.structures),
        "speck_share_before": candidate.specks, "speck_share": anatomy.speck_share(v.label, voxel_ml), "decoded_sd_hu": candidate.decoded,
        "volumes_ml": {k: round(x, 3) for k, x in anatomy.volumes_ml(v.label, voxel_ml).items()},
        "decoded_volumes_ml": {k: round(x, 3) for k, x in candidate.volumes_ml.items()},
        "decoded_location_mm": None if candidate.location_mm is None else round(candidate.location_mm, 3), "retimed": candidate.retimed,
    }  # fmt: skip


def _write_pair(out: Path, candidate: Candidate, grid: ModelGrid) -> None:
    affine = grid.affine(np.zeros(3))
    write_nifti(out / "images" / f"{candidate.name}.nii.gz", candidate.image, affine, dtype=np.int16)
    write_nifti(out / "labels" / f"{candidate.name}.nii.gz", candidate.verdict.label, affine, dtype=np.uint8)
