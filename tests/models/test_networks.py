"""Shapes, exact encoder transfer, and invariances of the networks."""

import pytest
import torch
from torch import nn

from auricle.models.autoencoder import Autoencoder, AutoencoderConfig, kl_divergence
from auricle.models.blocks import Conv3d, voxel_shuffle
from auricle.models.denoiser import Denoiser, DenoiserConfig
from auricle.models.masking import MaskConfig, apply_mask, draw_mask
from auricle.models.segmenter import Segmenter, SegmenterConfig


@pytest.mark.parametrize("head", ["categorical", "packed"])
@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_autoencoder_shapes(head: str, fusion: str) -> None:
    config = AutoencoderConfig(channels=(8, 16), blocks=1, latent_channels=3, label_head=head, fusion=fusion)  # type: ignore[arg-type]
    network = Autoencoder(config)
    image, packed = torch.randn(2, 1, 16, 24, 8), torch.rand(2, 3, 16, 24, 8)
    decoded, label, mean, std = network(image, packed, torch.randn(2, 3, 4, 6, 2))
    assert decoded.shape == image.shape
    assert label.shape == (2, 9 if head == "categorical" else 3, 16, 24, 8)
    assert mean.shape == std.shape == (2, 3, 4, 6, 2)
    assert (std > 0).all()


def test_fusion_is_a_sum() -> None:
    """With the label stem silenced, the latent does not depend on the label; otherwise it does."""
    network = Autoencoder(AutoencoderConfig(channels=(8, 16), blocks=1)).eval()
    image, a, b = torch.randn(1, 1, 16, 16, 16), torch.rand(1, 3, 16, 16, 16), torch.rand(1, 3, 16, 16, 16)
    assert not torch.allclose(network.encode(image, a)[0], network.encode(image, b)[0])
    nn.init.zeros_(network.label_stem.weight)
    assert torch.equal(network.encode(image, a)[0], network.encode(image, b)[0])


def test_kl_is_zero_for_the_standard_normal_alone() -> None:
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    assert kl_divergence(zero, one) == 0
    assert kl_divergence(zero + 0.5, one) == pytest.approx(0.125)
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(0.3, 0.7), torch.distributions.Normal(0.0, 1.0))
    assert kl_divergence(zero + 0.3, 0.7 * one) == pytest.approx(float(expected), rel=1e-5)


def test_voxel_shuffle_keeps_every_value() -> None:
    x = torch.arange(2 * 16 * 2 * 3 * 4, dtype=torch.float32).reshape(2, 16, 2, 3, 4)
    y = voxel_shuffle(x, 2)
    assert y.shape == (2, 2, 4, 6, 8)
    assert torch.equal(y.flatten().sort().values, x.flatten())
    # The eight channels of one coarse voxel become its eight fine voxels.
    assert torch.equal(y[0, 0, :2, :2, :2].flatten(), x[0, :8, 0, 0, 0])


def test_small_single_volumes_take_the_fast_path_to_the_same_values() -> None:
    torch.manual_seed(0)
    convolution = Conv3d(8, 8, 3, padding=1)
    x = torch.randn(1, 8, 8, 8, 8)
    assert torch.allclose(convolution(x), nn.functional.conv3d(x, convolution.weight, convolution.bias, padding=1), atol=1e-5)


def test_encoder_of_the_reconstruction_network_is_the_segmenters() -> None:
    config = SegmenterConfig(channels=(8, 16, 24))
    a, b = Segmenter(config, outputs=1), Segmenter(config, outputs=9)
    b.encoder.load_state_dict(a.encoder.state_dict())
    x = torch.randn(1, 1, 16, 16, 16)
    for fa, fb in zip(a.encoder(x), b.encoder(x), strict=True):
        assert torch.equal(fa, fb)
    assert a(x).shape == (1, 1, 16, 16, 16)
    assert b(x).shape == (1, 9, 16, 16, 16)
    with pytest.raises(ValueError, match="divisible by 8"):
        a(torch.randn(1, 1, 12, 16, 16))


def test_deep_supervision_adds_outputs_and_changes_none() -> None:
    torch.manual_seed(0)
    network = Segmenter(SegmenterConfig(channels=(8, 16, 24, 32), supervision=2), outputs=9)
    x = torch.randn(1, 1, 32, 32, 32)
    levels = network(x, coarse=True)
    assert [tuple(level.shape[2:]) for level in levels] == [(32,) * 3, (8,) * 3, (4,) * 3]
    assert torch.equal(levels[0], network(x))
    with pytest.raises(ValueError, match=r"--network\.supervision must be 0 to 2"):
        SegmenterConfig(channels=(8, 16, 24, 32), supervision=3)


def test_denoiser_starts_at_zero_and_sees_time() -> None:
    network = Denoiser(DenoiserConfig(channels=(8, 16), blocks=1), latent_channels=4)
    x, t = torch.randn(2, 4, 8, 8, 4), torch.tensor([0.1, 0.9])
    assert network(x, t).abs().max() == network.out.bias.abs().max()
    for p in network.parameters():
        nn.init.normal_(p, std=0.1)
    out = network(x, t)
    assert out.shape == x.shape
    assert not torch.allclose(out, network(x, t.flip(0)))
    # Samples of a batch do not see each other.
    assert torch.allclose(out[1:], network(x[1:], t[1:]), atol=1e-4)
    with pytest.raises(ValueError, match="multiple of 4, the heads"):
        DenoiserConfig(channels=(8, 18))
    with pytest.raises(ValueError, match="divisible by 2"):
        network(torch.randn(1, 4, 7, 8, 8), t[:1])


def test_masks_follow_their_numbers() -> None:
    config = MaskConfig(blocks=25, probability=0.8, block_size=(8, 16))
    generator = torch.Generator().manual_seed(1)
    masks = [draw_mask(config, (64, 64, 64), generator) for _ in range(200)]
    masked = sum(bool(m.any()) for m in masks) / len(masks)
    assert 0.72 < masked < 0.88
    single = MaskConfig(blocks=1, probability=1.0, block_size=(8, 16))
    for _ in range(20):
        where = draw_mask(single, (64, 64, 64), generator).nonzero()
        edges = where.max(0).values - where.min(0).values + 1
        assert len(where) == edges.prod()
        assert 8 <= edges.min() <= edges.max() <= 16
    image = torch.ones(1, 1, 8, 8, 8)
    mask = torch.zeros(1, 1, 8, 8, 8, dtype=torch.bool)
    mask[..., :4] = True
    assert apply_mask(image, mask).sum() == 256


def _random(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that leave nothing at zero."""
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.data = torch.randn(p.shape, generator=generator) * (0.3 if p.ndim < 2 else (1 / p[0].numel()) ** 0.5)
    return network.eval()


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("channels", [(4, 8), (4,), (4, 6, 8)])
@torch.no_grad()
def test_tiles_decode_to_the_whole(channels: tuple[int, ...], blocks: int) -> None:
    network = _random(Autoencoder(AutoencoderConfig(channels=channels, blocks=blocks, latent_channels=2)))
    assert isinstance(network, Autoencoder)
    latent = torch.randn(1, 2, 2 * network.halo + 3, 5, 6)
    image, label = network.decode(latent)
    for tile in (2, 5, 64):
        tiled_image, tiled_label = network.decode_tiled(latent, tile)
        assert torch.allclose(tiled_image, image, atol=1e-4)
        assert torch.allclose(tiled_label, label, atol=1e-4)
    with pytest.raises(ValueError, match="--tile"):
        network.decode_tiled(latent, 0)


@torch.no_grad()
def test_a_decoded_voxel_depends_on_the_halo_and_on_no_more() -> None:
    network = _random(Autoencoder(AutoencoderConfig(channels=(4, 8), blocks=1, latent_channels=2)))
    assert isinstance(network, Autoencoder)
    n, d = 2 * network.halo + 5, network.config.downsampling
    latent = torch.randn(1, 2, n, 4, 4)
    changed = latent.clone()
    changed[:, :, 0] += 5.0
    difference = (network.decode(latent)[0] - network.decode(changed)[0]).abs().amax((0, 1, 3, 4))
    reached = int((difference > 1e-6).nonzero().max())
    assert (network.halo - 1) * d < reached < (network.halo + 1) * d


def test_a_patch_is_encoded_as_in_the_whole_volume() -> None:
    """No statistic over space: inside, far from its border, a patch gives the latent that the whole volume gives."""
    network = _random(Autoencoder(AutoencoderConfig(channels=(4, 8), blocks=1, latent_channels=2)))
    assert isinstance(network, Autoencoder)
    image, packed = torch.randn(1, 1, 64, 16, 16), torch.rand(1, 3, 64, 16, 16)
    with torch.no_grad():
        whole = network.encode(image, packed)[0]
        part = network.encode(image[:, :, :48], packed[:, :, :48])[0]
    assert torch.allclose(whole[:, :, :4], part[:, :, :4], atol=1e-5)


@pytest.mark.parametrize("kind", ["autoencoder", "denoiser"])
def test_checkpointing_changes_neither_output_nor_gradient(kind: str) -> None:
    gradients = []
    for flag in (False, True):
        if kind == "autoencoder":
            network: nn.Module = _random(Autoencoder(AutoencoderConfig(channels=(4, 8), blocks=1, latent_channels=2, checkpoint=flag)))
            inputs: tuple[torch.Tensor, ...] = (torch.linspace(-1, 1, 4096).reshape(1, 1, 16, 16, 16), torch.full((1, 3, 16, 16, 16), 0.4))
            out = torch.cat(network(*inputs)[:2], dim=1)
        else:
            network = _random(Denoiser(DenoiserConfig(channels=(8, 16), blocks=1, checkpoint=flag), latent_channels=2))
            inputs = (torch.linspace(-1, 1, 1024).reshape(1, 2, 8, 8, 8), torch.tensor([0.3]))
            out = network(*inputs)
        out.square().sum().backward()
        gradients.append([out.detach(), *(p.grad for p in network.parameters() if p.grad is not None)])
    assert len(gradients[0]) == len(gradients[1])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*gradients, strict=True))


def test_denoiser_takes_conditions_and_does_without() -> None:
    network = _random(Denoiser(DenoiserConfig(channels=(8, 16), blocks=1), latent_channels=2, condition_width=5))
    x, t = torch.randn(2, 2, 8, 8, 8), torch.tensor([0.2, 0.7])
    free = network(x, t)
    assert torch.equal(free, network(x, t, torch.zeros(2, 5)))
    told = network(x, t, torch.tensor([[0.0] * 5, [1.0, 0.0, 0.0, 0.0, 1.0]]))
    assert torch.allclose(free[0], told[0], atol=1e-5)
    assert not torch.allclose(free[1], told[1], atol=1e-3)


def test_denoiser_knows_places() -> None:
    """The same content elsewhere gives another answer: a heart has its place in the field of view."""
    network = _random(Denoiser(DenoiserConfig(channels=(8,), blocks=1), latent_channels=2))
    x = torch.zeros(1, 2, 16, 8, 8)
    x[:, :, 4:6] = 1.0
    t = torch.tensor([0.5])
    moved = network(x.roll(6, 2), t).roll(-6, 2)
    assert not torch.allclose(network(x, t)[:, :, 4:6], moved[:, :, 4:6], atol=1e-3)


def test_denoiser_sees_conditions_about_places_at_every_voxel() -> None:
    """They reach it by the stem too: with the way over the embedding shut, they still count."""
    network = _random(Denoiser(DenoiserConfig(channels=(8,), blocks=1), latent_channels=2, condition_width=3, placed=(1,)))
    for p in network.condition.parameters():
        p.data.zero_()
    x, t = torch.randn(1, 2, 8, 8, 8), torch.tensor([0.5])
    free, unplaced, placed = (network(x, t, torch.tensor([c])) for c in ([0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]))
    assert torch.equal(free, unplaced)
    assert not torch.allclose(free, placed, atol=1e-3)
    assert torch.equal(free, network(x, t))
