"""Cases after the autoencoder's round trip, as a cohort folder: what a perfect diffusion model would generate with this autoencoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auricle.core import progress
from auricle.core.files import read_json, write_array, write_json
from auricle.core.runs import Run, finished
from auricle.stages import autoencoder
from auricle.stages.pairs import cohort_pairs


@dataclass(frozen=True)
class RoundTripStage:
    """Which cases, through which autoencoder."""

    cohort: Path
    """Folder of a prepared cohort, whose training split is taken."""
    autoencoder: Path
    """Folder of a trained autoencoder."""


def run(config: RoundTripStage, out: Path) -> Path:
    """Write images and label maps on the model grid into `out`, without a margin, as generated pairs are. Returns `out`."""
    inputs = {"cohort": finished(config.cohort, "cohort"), "autoencoder": finished(config.autoencoder, "autoencoder")}
    this = Run(out, "cohort", config, inputs)
    if this.done:
        progress.report(f"{out}: round trip is done")
        return out
    network = autoencoder.load(config.autoencoder)
    pairs = cohort_pairs(config.cohort, "train")
    table: dict[str, Any] = read_json(config.cohort / "cases.json")
    records = {c["id"]: c for c in table["cases"]}
    this.begin()
    cases = []
    for i in progress.track(range(len(pairs)), "round trip", len(pairs)):
        item = pairs.items[i]
        passed = autoencoder.round_trip(network, *pairs.plain(i))
        hu = np.rint(passed.image_hu + passed.error_hu).clip(-1024, 3071).astype(np.int16)
        write_array(out / "images" / f"{item.id}.npy", hu)
        write_array(out / "labels" / f"{item.id}.npy", passed.decoded.astype(np.uint8))
        cases.append({**records[item.id], "affine": np.asarray(item.affine).tolist()})
    write_json(out / "cases.json", {**table, "margin": [0, 0, 0], "cases": cases})
    this.finish(cases=len(cases))
    return out
