"""The refiner: local, told what it must know, and able to learn how noisy an image is."""

import pytest
import torch

from auricle.diffusion.noise import flow_sigmas
from auricle.diffusion.parameterization import denoiser, denoising_loss
from auricle.diffusion.samplers import dpmpp
from auricle.models.blocks import voxel_shuffle, voxel_unshuffle
from auricle.models.refiner import KNOWN_WIDTH, Refiner, RefinerConfig, context
from auricle.stages.refiner import SCHEME


def small(seed: int = 0) -> Refiner:
    torch.manual_seed(seed)
    network = Refiner(RefinerConfig(channels=(8, 12)))
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def inputs(size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shape = (1, 1, size, size, size)
    return torch.randn(shape, generator=g), torch.randn(shape, generator=g), torch.randint(0, 9, (1, size, size, size), generator=g)


def test_unshuffle_undoes_shuffle() -> None:
    x = torch.randn(2, 16, 3, 4, 5)
    assert torch.equal(voxel_unshuffle(voxel_shuffle(x, 2), 2), x)
    y = torch.randn(2, 3, 4, 6, 8)
    assert torch.equal(voxel_shuffle(voxel_unshuffle(y, 2), 2), y)


def test_context_holds_the_image_and_the_share_of_each_label() -> None:
    _, image, label = inputs(8)
    told = context(image, label)
    assert told.shape == (1, 17, 4, 4, 4)
    assert torch.equal(voxel_shuffle(told[:, :8], 2), image)
    assert torch.allclose(told[:, 8:].sum(1), torch.ones(1, 4, 4, 4))
    assert float(told[0, 8 + 3, 0, 0, 0]) == pytest.approx(float((label[0, :2, :2, :2] == 3).float().mean()))


def test_a_patch_is_refined_as_the_whole_is() -> None:
    network, (x, image, label) = small(), inputs(56)
    time, known = torch.tensor([0.5]), torch.zeros(1, KNOWN_WIDTH)
    cut = (slice(None), slice(None), slice(0, 40), slice(0, 40), slice(0, 40))
    with torch.no_grad():
        whole = network(x, time, context(image, label), known)
        part = network(x[cut], time, context(image[cut], label[cut[0], *cut[2:]]), known)
    assert torch.allclose(part[..., :16, :16, :16], whole[..., :16, :16, :16], atol=1e-5)
    assert not torch.allclose(part[..., -4:, :, :], whole[..., 36:40, :40, :40], atol=1e-5)


def test_it_learns_the_noise_that_it_is_told_of() -> None:
    """Two kinds of scans, quiet and loud: what is drawn for each has the SD of its kind."""
    network = small().train()
    scheme, optimizer = SCHEME, torch.optim.Adam(network.parameters(), 5e-3)
    g = torch.Generator().manual_seed(0)
    label = torch.zeros(8, 8, 8, 8, dtype=torch.uint8)
    told = context(torch.zeros(8, 1, 8, 8, 8), label)
    loud = (torch.arange(8) % 2).float()
    known = torch.stack([loud, loud, 0 * loud], dim=1)
    for _ in range(150):
        residual = torch.randn(8, 1, 8, 8, 8, generator=g) * (0.3 + 0.7 * loud)[:, None, None, None, None]
        noise = torch.randn(residual.shape, generator=g)
        loss = denoising_loss(lambda x, t: network(x, t, told, known), scheme, residual, scheme.draw_sigma(8, g), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sigmas = flow_sigmas(8)
    start = torch.randn(residual.shape, generator=g) * sigmas[0].float()
    with torch.no_grad():
        drawn = dpmpp(denoiser(lambda x, t: network(x, t, told, known), scheme), start, sigmas)
    assert float(drawn[0::2].std()) == pytest.approx(0.3, rel=0.25)
    assert float(drawn[1::2].std()) == pytest.approx(1.0, rel=0.25)
