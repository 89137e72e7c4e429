"""How good is the generator of a run? Round trip, gate, volumes, texture, distribution, obedience and memorization, in one flat object."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auricle.core import progress
from auricle.core.anatomy import KEYS
from auricle.core.errors import InputError
from auricle.core.files import read_json, write_json
from auricle.core.runs import finished
from auricle.core.seeds import numpy_generator, torch_generator
from auricle.data.augment import AugmentConfig
from auricle.data.conditions import measured, metal_of
from auricle.data.intensity import IntensityConfig
from auricle.data.labelcode import pack
from auricle.data.preprocess import to_hu
from auricle.metrics import anatomy, distribution, fidelity, memorization, obedience, texture
from auricle.metrics.texture import Texture
from auricle.models.features import PARTS, RandomEncoder
from auricle.stages import autoencoder as autoencoder_stage
from auricle.stages import gate, restoration
from auricle.stages import refiner as refiner_stage
from auricle.stages.gate import Audit
from auricle.stages.generate import restored
from auricle.stages.pairs import Pairs, cohort_pairs, generated_pairs, network_units
from auricle.stages.sampling import decode

Flat = dict[str, Any]
Through = Callable[[Tensor, Tensor, bool | None, int], tuple[NDArray[np.float32], NDArray[np.uint8]]]
PLANTED = 60
"""Copies planted to test the audit."""
PLANT = AugmentConfig(
    location_crop_probability=1.0, shift_mm=8.0, rotation_degrees=4.0, scale=0.06, growth_mm=1.5, timing=0.2, boost_probability=0.5,
    intensity=IntensityConfig(noise_hu=20.0, blur_probability=0.5),
)
"""How a planted copy is disguised: as views are in training, as generation warps pairs to volumes and timings, and with other noise and sharpness."""


@dataclass(frozen=True)
class Surveyed:
    """What is measured on each case of a set, in order."""

    volumes: list[dict[str, float]]
    textures: list[dict[str, Texture | None]]
    histograms: dict[str, NDArray[np.int64]]
    features: NDArray[np.float32]
    chamber_hu: list[tuple[float, float] | None]
    metal: list[float]
    attributes: list[Mapping[str, Any]]
    location_mm: list[float | None]


def run(root: Path, seed: int = 0) -> Flat:
    """Assess the generator of the run in `root` (its folders cohort, autoencoder, diffusion and generate); writes ``assessment.json``.

    Generated pairs are compared with the training cases, real held-out cases (test split) with the same training cases for a floor. Raises
    `InputError` where a stage has not finished.
    """
    folders = {name: root / name for name in ("cohort", "autoencoder", "diffusion", "generate")}
    for name, folder in folders.items():
        finished(folder, name)
    table = read_json(folders["generate"] / "pairs.json")
    if "gate" not in table:
        raise InputError(f"{folders['generate']} was written by an earlier version: generate again")
    train, test = (labeled(cohort_pairs(folders["cohort"], split)) for split in ("train", "test"))
    if not len(test):
        raise InputError(f"{folders['cohort']}: nothing is labeled in its test split, so that there is nothing to compare with")
    made = generated_pairs(folders["generate"])
    through, encoder = way_of(folders, table), RandomEncoder()
    real, unseen, new = (survey(p, n, encoder) for p, n in ((train, "training"), (test, "test"), (made, "generated")))
    flat: Flat = {"training_cases": len(train), "test_cases": len(test), "pairs": len(made), "seed": table["seed"], "sampler": table["sampler"],
                  "steps": table["steps"]}  # fmt: skip
    flat |= round_trip(read_json(folders["autoencoder"] / "assessment.json"), unseen)
    flat |= gated(table)
    flat |= volumes(real, new)
    flat |= requested(table, new, real, unseen)
    flat |= textures(real, unseen, new, table)
    flat |= distances(real, unseen, new, seed)
    flat |= diversity(train, made, seed)
    flat |= copies(gate.audit(folders["cohort"]), train, test, table, seed, through)
    flat = {k: _plain(v) for k, v in flat.items()}
    write_json(root / "assessment" / "measures.json", measures(real, unseen, new, table))
    write_json(root / "assessment.json", flat)
    return flat


def measures(real: Surveyed, unseen: Surveyed, new: Surveyed, table: Mapping[str, Any]) -> dict[str, Any]:
    """What figures are drawn from: volumes, requests and what came of them, spectra, HU histograms and the nearest training cases."""
    sets = {"training": real, "test": unseen, "generated": new}
    pairs = table["pairs"]
    both = [(p["requested"].get("volumes_ml", {}), v) for p, v in zip(pairs, new.volumes, strict=True)]
    places = [(p["requested"].get("location_mm"), b) for p, b in zip(pairs, new.location_mm, strict=True)]
    spectra = {t: {name: spectrum(s.textures, t) for name, s in sets.items()} for t in texture.TISSUES}
    near = sorted((p for p in pairs if p["nearest"]), key=lambda p: -p["nearest"]["score"])
    return {
        "volumes_ml": {name: {k: [round(v[k], 2) for v in s.volumes] for k in KEYS} for name, s in sets.items()},
        "requested_volumes_ml": {k: [[round(a[k], 2), round(b[k], 2)] for a, b in both if k in a] for k in KEYS},
        "requested_location_mm": [[round(a, 2), round(b, 2)] for a, b in places if a is not None and b is not None],
        "nps": {t: {"frequency_per_mm": next((s[0].tolist() for s in found.values() if s is not None), []),
                    **{name: s[1].tolist() for name, s in found.items() if s is not None}} for t, found in spectra.items()},
        "hu": {t: {"edges": fidelity.HU_EDGES.tolist(),
                   **{name: (h / max(h.sum(), 1)).tolist() for name, s in sets.items() if (h := s.histograms.get(t)) is not None}}
               for t in texture.TISSUES},
        "nearest": [{"id": p["id"], **p["nearest"]} for p in near],
    }  # fmt: skip


def survey(pairs: Pairs, name: str, encoder: RandomEncoder) -> Surveyed:
    """Measure every pair of a set once."""
    spacing, voxel_ml = pairs.grid.spacing, float(np.prod(pairs.grid.spacing)) / 1000.0
    found = Surveyed([], [], {}, np.empty((len(pairs), 0), np.float32), [], [], [], [])
    rows = []
    for i in progress.track(range(len(pairs)), f"measure {name}", len(pairs)):
        image, label = pairs.hu(i)
        image = np.clip(image, -1000.0, 1000.0)
        found.volumes.append(anatomy.volumes_ml(label, voxel_ml))
        masks = texture.tissue_masks(image, label, spacing)
        found.textures.append({tissue: texture.texture(image, mask, spacing) for tissue, mask in masks.items()})
        for tissue, mask in masks.items():
            counts = fidelity.hu_histogram(image, mask)
            found.histograms[tissue] = found.histograms.get(tissue, np.zeros_like(counts)) + counts
        with torch.no_grad():
            rows.append(encoder(network_units(torch.from_numpy(image))[None, None], torch.from_numpy(label)[None])[0].numpy())
        found.chamber_hu.append(obedience.chamber_hu(image, label))
        found.metal.append(obedience.metal_score(image))
        attributes = pairs.items[i].attributes
        # Where no table gives the contrast timing it is read off the image, as it was for the diffusion model.
        met = measured(attributes, label, spacing, image)
        found.attributes.append({**attributes, "contrast": met.contrast})
        found.location_mm.append(met.location_mm)
    return Surveyed(**{**vars(found), "features": np.stack(rows)})


def round_trip(stored: Mapping[str, Any], unseen: Surveyed) -> Flat:
    """The autoencoder on test cases; the noise is the RMS over test cases of the SD in their blood pool."""
    noise = [t["blood"].sd_hu for t in unseen.textures if t["blood"] is not None]
    flat: Flat = {f"label_dice_{k}": v for k, v in stored["label_dice"].items()}
    flat |= {k: stored.get(k) for k in ("impossible_boundary_share", "image_rmse_hu", "image_rmse_heart_hu", "image_psnr_db", "image_ssim")}
    flat |= {"round_trip_speck_share": stored["speck_share"], "noise_sd_hu": float(np.sqrt(np.mean(np.square(noise)))) if noise else None}
    if flat["noise_sd_hu"]:
        flat["image_rmse_over_noise"] = flat["image_rmse_hu"] / flat["noise_sd_hu"]
    return flat


def gated(table: Mapping[str, Any]) -> Flat:
    """Shares of candidates: before anything is repaired or rejected, after repair, and copies; specks of kept pairs, before and after repair."""
    g, pairs = table["gate"], table["pairs"]
    return {
        "candidates": g["candidates"], "gate_pass_share": g["passed_before_repair"] / g["candidates"],
        "gate_pass_share_repaired": g["passed_anatomy"] / g["candidates"], "gate_kept_share": g["passed"] / g["candidates"],
        "complete_share": table["complete_share"], "speck_share": table["speck_share"],
        "speck_share_before_repair": float(np.mean([p["speck_share_before"] for p in pairs])),
    }  # fmt: skip


def volumes(real: Surveyed, new: Surveyed) -> Flat:
    """Mean and SD of each structure's volume, generated over training."""
    flat: Flat = {}
    for k in KEYS:
        a, b = np.array([v[k] for v in new.volumes]), np.array([v[k] for v in real.volumes])
        flat[f"volume_mean_ratio_{k}"] = _ratio(a.mean(), b.mean())
        flat[f"volume_sd_ratio_{k}"] = _ratio(*(v.std(ddof=1) if len(v) > 1 else 0.0 for v in (a, b)))
    return flat


def requested(table: Mapping[str, Any], new: Surveyed, real: Surveyed, unseen: Surveyed) -> Flat:
    """What was asked for against what came out; the same rules on real test cases show what they can tell."""
    asked = [p["requested"] for p in table["pairs"]]
    flat: Flat = {}
    for name, volumes_ml in (("", new.volumes), ("_decoded", [p.get("decoded_volumes_ml", {}) for p in table["pairs"]])):
        both = [(a.get("volumes_ml", {}), v) for a, v in zip(asked, volumes_ml, strict=True)]
        rs = {k: _correlation([(a[k], v[k]) for a, v in both if k in a and k in v]) for k in KEYS}
        known = [r for r in rs.values() if r is not None]
        flat[f"volume_r{name}"] = float(np.mean(known)) if known else None
        flat |= {f"volume_r{name}_{k}": r for k, r in rs.items()}
    for name, found in (("", new.location_mm), ("_decoded", [p.get("decoded_location_mm") for p in table["pairs"]])):
        places = zip((a.get("location_mm") for a in asked), found, strict=True)
        flat[f"location_r{name}"] = _correlation([(a, b) for a, b in places if a is not None and b is not None])
    timed = [(a["contrast"], h) for a, h in zip(real.attributes, real.chamber_hu, strict=True) if a.get("contrast") and h is not None]
    ranges = obedience.timing_ranges([t for t, _ in timed], [h for _, h in timed])
    flat["contrast_retimed_share"] = _share([p["retimed"] for p in table["pairs"] if "retimed" in p])
    metal = [(m, bool(a["metal"])) for a, m in zip(real.attributes, real.metal, strict=True) if a.get("metal") is not None]
    threshold = obedience.metal_threshold([m for m, _ in metal], [t for _, t in metal])
    for name, wanted, seen in (("", asked, new), ("_real", unseen.attributes, unseen)):
        # A pair without ventricles to look at shows nothing that was asked for; of a timing that no training case has nothing is known.
        timed_pairs = [(a["contrast"], h) for a, h in zip(wanted, seen.chamber_hu, strict=True) if a.get("contrast") in ranges.low]
        flat[f"contrast_obeyed_share{name}"] = _share([h is not None and bool(ranges.obeyed(t, h)) for t, h in timed_pairs])
        rows = [] if threshold is None else [
            (m > threshold, bool(a["metal"])) for a, m in zip(wanted, seen.metal, strict=True) if a.get("metal") is not None]  # fmt: skip
        amount = [m for a, m in zip(wanted, seen.metal, strict=True) if a.get("metal")]
        usual = [m for m, there in metal if there]
        flat[f"metal_amount_ratio{name}"] = _ratio(float(np.median(amount)), float(np.median(usual))) if amount and usual else None
        flat[f"metal_obeyed_share{name}"] = _share([a == b for a, b in rows])
        flat[f"metal_sensitivity{name}"] = _share([a for a, b in rows if b])
        flat[f"metal_specificity{name}"] = _share([not a for a, b in rows if not b])
    return flat


def textures(real: Surveyed, unseen: Surveyed, new: Surveyed, table: Mapping[str, Any]) -> Flat:
    """NPS-integrated SD and peak frequency by tissue, generated over training; `_decoded` is before restoration, `_real` are test cases."""
    flat: Flat = {}
    for tissue in texture.TISSUES:
        base = _rms([t[tissue] for t in real.textures])
        decoded = [p["decoded_sd_hu"][tissue] for p in table["pairs"] if tissue in p["decoded_sd_hu"]]
        flat[f"texture_sd_ratio_{tissue}"] = _ratio(_rms([t[tissue] for t in new.textures]), base)
        flat[f"texture_sd_ratio_decoded_{tissue}"] = _ratio(float(np.sqrt(np.mean(np.square(decoded)))) if decoded else None, base)
        flat[f"texture_sd_ratio_real_{tissue}"] = _ratio(_rms([t[tissue] for t in unseen.textures]), base)
        flat[f"texture_peak_ratio_{tissue}"] = _ratio(*(_peak(s, tissue, table["spacing"]) for s in (new, real)))
        for name, other in (("", new), ("_real", unseen)):
            pair = (other.histograms.get(tissue), real.histograms.get(tissue))
            flat[f"hu_distance{name}_{tissue}"] = None if pair[0] is None or pair[1] is None else fidelity.histogram_distance(pair[0], pair[1])
    return flat


def spectrum(found: Sequence[Mapping[str, Texture | None]], tissue: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Frequencies and mean NPS of a tissue over cases; None where none shows it."""
    known = [t for f in found if (t := f[tissue]) is not None]
    return (np.array(known[0].frequency_per_mm), np.mean([t.power for t in known], axis=0)) if known else None


def _peak(found: Surveyed, tissue: str, spacing: tuple[float, float, float]) -> float | None:
    """Frequency at which the mean NPS of a tissue is largest."""
    mean = spectrum(found.textures, tissue)
    return None if mean is None else texture.peak_per_mm(*mean, spacing)


def distances(real: Surveyed, unseen: Surveyed, new: Surveyed, seed: int) -> Flat:
    """Kernel distance to the training cases with its interval, of image and label features together and apart, and Frechet distance.

    `_floor` is that of real test cases. Sets of fewer than two cases have no distance.
    """
    if min(len(s.features) for s in (real, unseen, new)) < 2:
        return {}
    flat: Flat = {}
    for name, part in {"": slice(None), **{f"_{k}": v for k, v in PARTS.items()}}.items():
        a, b, c = (s.features[:, part] for s in (new, real, unseen))
        scale = distribution.Scale.of(b)
        flat[f"kernel_distance{name}"] = distribution.kernel_distance(a, b, scale)
        flat[f"kernel_distance{name}_floor"] = distribution.kernel_distance(c, b, scale)
        if not name:
            flat["kernel_distance_low"], flat["kernel_distance_high"] = distribution.interval(a, b, numpy_generator(seed, "interval"), scale=scale)
            # The Frechet distance's bias depends on the number of cases: as many generated ones as there are test cases.
            count = min(len(a), len(c))
            chosen = numpy_generator(seed, "frechet").permutation(len(a))[:count]
            flat["frechet_distance"] = distribution.frechet_distance(a[chosen], b, scale)
            flat["frechet_distance_floor"] = distribution.frechet_distance(c[:count], b, scale)
    return flat


def diversity(train: Pairs, made: Pairs, seed: int) -> Flat:
    """Mean MS-SSIM between pairs of generated images and between pairs of patients: lower is more diverse."""
    flat: Flat = {}
    for name, pairs in (("real", train), ("generated", made)):
        rng = numpy_generator(seed, "diversity")
        chosen = rng.permutation(len(pairs))[:24].tolist()
        if len(chosen) > 1:
            flat[f"ms_ssim_{name}"] = fidelity.diversity([pairs.hu(i)[0] for i in chosen], rng)
    return flat


def copies(audited: Audit, train: Pairs, test: Pairs, table: Mapping[str, Any], seed: int, through: Through | None) -> Flat:
    """The share of copies among candidates, and how the audit does on planted copies and on test cases that it never saw.

    `_generated` are planted copies that go `through` what generated pairs come from; None where that is not there. Where pairs lie nearer to the
    training case whose conditions they were given than chance has it, conditions recall cases.
    """
    accused = [memorization.is_copy(audited.match(*test.hu(i), test.grid.spacing), audited.threshold)
               for i in progress.track(range(len(test)), "audit: test cases", len(test))]  # fmt: skip
    found: dict[str, list[bool]] = {"": [], "_generated": []}
    chosen = numpy_generator(seed, "planted").permutation(len(train))[:PLANTED].tolist()
    for i in progress.track(chosen, "audit: planted copies", len(chosen)):
        image, label = train.batch([i], PLANT, torch_generator(seed, "planted", i))
        planted = {"": (to_hu(image[0, 0].numpy()), label[0].numpy())}
        if through is not None:
            planted["_generated"] = through(image, label, metal_of(train.items[i].attributes), i)
        for name, (hu, labels) in planted.items():
            match = audited.match(hu, labels, train.grid.spacing)
            found[name].append(memorization.is_copy(match, audited.threshold) and audited.ids[match.index] == train.items[i].id)
    audits = [p for p in table["pairs"] if p["nearest"]]
    own = [p["nearest"]["case"] == p["donor"] for p in audits if p.get("donor") in {i.id for i in train.items}]
    return {
        "copy_share": table["gate"]["copies"] / table["gate"]["candidates"] if audits else None, "copy_threshold": audited.threshold,
        **{f"audit_recall_planted{name}": _share(hits) for name, hits in found.items()}, "audit_false_alarm_share": _share(accused),
        "nearest_donor_share": _share(own), "nearest_donor_chance": 1 / len(train) if own else None,
    }  # fmt: skip


def labeled(pairs: Pairs) -> Pairs:
    """The pairs whose label map shows something."""
    return pairs.take([i for i in range(len(pairs)) if pairs.hu(i)[1].any()])


def way_of(folders: Mapping[str, Path], table: Mapping[str, Any]) -> Through | None:
    """What brings a view (network units (1, 1, X, Y, Z), label map (1, X, Y, Z), whether it shows metal, number) the way of the run's pairs: through
    the autoencoder, and refined and restored like these, wherever the run lies now. HU and label map (X, Y, Z) come out.

    None, with a notice, where their refiner is not there.
    """
    asked: dict[str, Any] = read_json(folders["generate"] / "config.json")["config"]
    network, refiner = autoencoder_stage.load(folders["autoencoder"]), None
    if wanted := table.get("refiner_sha256"):
        places = [Path(asked["refiner"]), folders["autoencoder"].parent / "refiner"]
        found = [p for p in places if (p / "model.json").is_file() and read_json(p / "model.json").get("sha256") == wanted]
        if not found:
            progress.notice(f"{places[0]}: the refiner of the pairs is not there, so planted copies are not refined like them and are left out")
            return None
        refiner = refiner_stage.load(found[0], folders["autoencoder"])
    grains = restoration.load(folders["autoencoder"]) if asked.get("restore", True) else []

    @torch.no_grad()
    def through(image: Tensor, label: Tensor, metal: bool | None, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        device = next(network.parameters()).device
        mean, _ = network.encode(image.to(device, memory_format=torch.channels_last_3d), pack(label.to(device)))
        decoded = decode(network, mean[0].contiguous(), table["spacing"], asked.get("tile"))
        return restored(decoded.image, decoded.label, table["spacing"], grains, refiner, metal, table["seed"], index), decoded.label

    return through


def _rms(found: Sequence[Texture | None]) -> float | None:
    values = [t.sd_hu for t in found if t is not None]
    return float(np.sqrt(np.mean(np.square(values)))) if values else None


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else float(a) / float(b)


def _share(values: Sequence[bool]) -> float | None:
    return float(np.mean(values)) if values else None


def _correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Pearson's r; None for fewer than three pairs or where either side does not vary."""
    if len(pairs) < 3:
        return None
    a, b = np.array(pairs).T
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-6 * max(1.0, abs(a.mean())) and b.std() > 0 else None


def _plain(value: Any) -> Any:
    """A number that JSON takes, to six digits; None for one that is not finite."""
    if not isinstance(value, float | np.floating):
        return value
    return round(float(value), 6) if np.isfinite(value) else None
