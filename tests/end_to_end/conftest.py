"""The smallest recipe at which every stage still runs."""

from dataclasses import replace

import pytest

from auricle import recipes
from auricle.data.cohort import VirtualData
from auricle.models.autoencoder import AutoencoderConfig
from auricle.models.denoiser import DenoiserConfig
from auricle.models.segmenter import SegmenterConfig
from auricle.training.loop import FitConfig


@pytest.fixture(scope="session")
def tiny() -> recipes.Recipe:
    """The demo's stages at the smallest size at which all of them still run."""
    demo = recipes.demo()
    network = SegmenterConfig(channels=(8, 16, 24))
    fit = FitConfig(steps=4, batch_size=2, validate_every=2)
    return replace(
        demo,
        cohort=replace(demo.cohort, data=VirtualData(patients=8, seed=3), size=(32, 32, 32), spacing=(5.0, 5.0, 5.0), margin=(4, 4, 4), workers=1),
        autoencoder=replace(demo.autoencoder, network=AutoencoderConfig(channels=(8, 16), blocks=1), patch=(16, 16, 16), fit=fit),
        diffusion=replace(demo.diffusion, network=DenoiserConfig(channels=(8, 16), blocks=1), views=2, fit=replace(fit, ema_decay=0.9)),
        # Volumes and texture hang on thresholds, at which rounding decides for a network that has hardly been trained.
        generate=replace(demo.generate, steps=3, batch_size=4, gate=False, restore=False, warp=False),
        pretrain=replace(demo.pretrain, network=network, fit=fit),
        finetune=replace(demo.finetune, network=network, fit=fit),
    )  # fmt: skip
