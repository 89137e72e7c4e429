"""One pass through each network as the stages make it, measured from shapes alone; measured once for each shape."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.core.anatomy import LABEL_COUNT
from auricle.data import augment, conditions
from auricle.data.intensity import IntensityDraw
from auricle.data.labelcode import decode_label, pack
from auricle.losses.autoencoding import AutoencoderLossConfig, autoencoder_loss
from auricle.losses.segmentation import deep_supervision
from auricle.models.autoencoder import Autoencoder, AutoencoderConfig, kl_divergence
from auricle.models.denoiser import Denoiser, DenoiserConfig
from auricle.models.masking import apply_mask
from auricle.models.refiner import KNOWN_WIDTH, Refiner, RefinerConfig, context
from auricle.models.segmenter import Segmenter, SegmenterConfig
from auricle.stages.pairs import Triple
from auricle.training.cost import Cost, measure


def latent_grid(shape: AutoencoderConfig, size: Triple) -> Triple:
    """Voxels of the latent of a pair of `size` voxels."""
    x, y, z = (n // shape.downsampling for n in size)
    return x, y, z


def _pair(batch: int, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    return torch.empty(batch, 1, *size), torch.empty(batch, *size, dtype=torch.uint8)


@functools.lru_cache(maxsize=64)
def augmenting(wide: Triple, size: Triple, spacing: tuple[float, float, float]) -> Cost:
    """A view of `size` voxels from a pair of `wide` voxels."""
    same = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    still = augment.Draw(same, (0.0, 0.0, 0.0), 50.0, (1.0, 1.0), IntensityDraw(gain=1.1, offset_hu=1.0), None)

    def forward(network: nn.Module) -> Tensor:
        image, label = torch.empty(wide, dtype=torch.int16), torch.empty(wide, dtype=torch.uint8)
        return augment.apply(still, image, label, size, spacing)[0]

    return measure(nn.Identity, forward, train=False)


@functools.lru_cache(maxsize=64)
def autoencoder_step(shape: AutoencoderConfig, loss: AutoencoderLossConfig, batch: int, size: Triple) -> Cost:
    """A training step of the autoencoder, its loss included."""

    def forward(network: nn.Module) -> Tensor:
        image, label = _pair(batch, size)
        packed = pack(label)
        noise = torch.empty(batch, shape.latent_channels, *latent_grid(shape, size))
        decoded_image, decoded_label, mean, std = network(image, packed, noise)
        return autoencoder_loss(loss, image, label, packed, (decoded_image, decoded_label), kl_divergence(mean, std))["loss"]

    return measure(lambda: Autoencoder(shape), forward)


@functools.lru_cache(maxsize=64)
def round_trip(shape: AutoencoderConfig, size: Triple) -> Cost:
    """One pair through the autoencoder, to its decoded label map."""

    def forward(network: nn.Module) -> tuple[Tensor, ...]:
        image, label = _pair(1, size)
        decoded_image, decoded_label, _, _ = network(image, pack(label))
        before, after = image * 1.0, decoded_image * 1.0  # in HU
        return decode_label(decoded_label), before, after - before

    return measure(lambda: Autoencoder(shape), forward, train=False)


@functools.lru_cache(maxsize=64)
def encoding(shape: AutoencoderConfig, size: Triple) -> Cost:
    """One pair to the posterior of its latent."""

    def forward(network: nn.Module) -> Tensor:
        assert isinstance(network, Autoencoder)
        image, label = _pair(1, size)
        return network.encode(image, pack(label))[0]

    return measure(lambda: Autoencoder(shape), forward, train=False)


@functools.lru_cache(maxsize=64)
def decoding(shape: AutoencoderConfig, size: Triple, tile: int | None) -> Cost:
    """One latent to image and label map, in tiles of `tile` latent voxels where there is one."""

    def forward(network: nn.Module) -> tuple[Tensor, ...]:
        assert isinstance(network, Autoencoder)
        latent = torch.empty(1, shape.latent_channels, *latent_grid(shape, size))
        image, label = network.decode(latent) if tile is None else network.decode_tiled(latent, tile)
        hu = image * 1.0
        return hu, decode_label(label)

    return measure(lambda: Autoencoder(shape), forward, train=False)


def denoiser(shape: DenoiserConfig, channels: int) -> Denoiser:
    """The denoiser of latents of so many channels, as the stages build it."""
    return Denoiser(shape, channels, conditions.WIDTH, conditions.PLACED)


@functools.lru_cache(maxsize=64)
def denoising(shape: DenoiserConfig, channels: int, grid: Triple, batch: int, train: bool) -> Cost:
    """The denoiser on a batch of latents: a training step, or one evaluation without gradients."""

    def forward(network: nn.Module) -> Tensor:
        x = torch.empty(batch, channels, *grid)
        return F.mse_loss(network(x, torch.empty(batch), torch.empty(batch, conditions.WIDTH)), x)

    return measure(lambda: denoiser(shape, channels), forward, train=train)


@functools.lru_cache(maxsize=64)
def refining(shape: RefinerConfig, batch: int, size: Triple, train: bool) -> Cost:
    """The refiner on images of `size` voxels: a training step, or one evaluation without gradients."""

    def forward(network: nn.Module) -> Tensor:
        image, label = _pair(batch, size)
        return F.mse_loss(network(image, torch.empty(batch), context(image, label), torch.empty(batch, KNOWN_WIDTH)), image)

    return measure(lambda: Refiner(shape), forward, train=train)


@functools.lru_cache(maxsize=64)
def segmenting(shape: SegmenterConfig, outputs: int, batch: int, size: Triple, train: bool) -> Cost:
    """The U-Net: a step of fine-tuning (nine outputs) or pre-training (one), or a prediction."""

    def forward(network: nn.Module) -> Tensor:
        image, label = _pair(batch, size)
        if not train:
            logits: Tensor = network(image)
            return logits.argmax(1).to(torch.uint8)
        if outputs == LABEL_COUNT:
            return deep_supervision(network(image, coarse=True), label)
        return F.mse_loss(network(apply_mask(image, torch.empty(image.shape, dtype=torch.bool))), image)

    return measure(lambda: Segmenter(shape, outputs), forward, train=train)
