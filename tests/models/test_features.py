"""The fixed random encoder: the same for everyone, blind to what it should not see, and not blind to what it should."""

import hashlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from auricle.core.anatomy import ID, LABEL_COUNT
from auricle.metrics.distribution import Scale, kernel_distance
from auricle.models.features import FEATURES, IMAGE, LABEL, PAIR, PARTS, RandomEncoder

ENCODER = RandomEncoder()


def noise(seed: int, n: int = 2, grid: tuple[int, int, int] = (16, 16, 16)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = 2 * torch.rand((n, 1, *grid), generator=generator) - 1
    return image, torch.randint(0, LABEL_COUNT, (n, *grid), generator=generator, dtype=torch.uint8)


def hearts(count: int, seed: int, shift: float = 0.0, blur: float = 0.0, jitter: float = 1.0) -> tuple[Tensor, Tensor]:
    """Balls of blood in a shell of myocardium amid fat and noise on 20^3 voxels, their place and size drawn."""
    rng = np.random.default_rng(seed)
    x = np.stack(np.meshgrid(*[np.arange(20.0)] * 3, indexing="ij"))
    images, labels = [], []
    for _ in range(count):
        center = rng.normal((9.5 + shift, 9.5, 9.5), jitter)
        radius = np.linalg.norm(x - center[:, None, None, None], axis=0) / rng.normal(1, 0.05)
        label = np.select([radius < 4, radius < 6], [ID["LV"], ID["MYO"]], 0).astype(np.uint8)
        hu = np.select([radius < 4, radius < 6], [350, 100], -80) + rng.normal(0, 20, radius.shape)
        images.append(ndimage.gaussian_filter(hu, blur) / 1000)
        labels.append(label)
    return torch.from_numpy(np.stack(images)).float()[:, None], torch.from_numpy(np.stack(labels))


def features(image: Tensor, label: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = ENCODER(image, label).numpy()
    return array


def weights_hash(encoder: RandomEncoder) -> str:
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in encoder.state_dict().values())).hexdigest()


def test_weights_are_the_same_every_time_and_leave_the_global_generator_alone() -> None:
    hashes = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        hashes.add(weights_hash(RandomEncoder()))
        assert torch.equal(before, torch.get_rng_state())
    assert hashes == {weights_hash(ENCODER)}
    assert not any(p.requires_grad for p in ENCODER.parameters())
    # Reported distances are comparable only as long as this holds.
    total = sum(float(v.double().abs().sum()) for v in ENCODER.state_dict().values())
    assert total == pytest.approx(1638.80693, rel=1e-6)


def test_any_grid_gives_the_same_number_of_finite_features() -> None:
    assert 256 <= FEATURES <= 384
    for grid in [(1, 1, 1), (5, 8, 3), (20, 13, 9)]:
        result = ENCODER(*noise(0, 2, grid))
        assert result.shape == (2, FEATURES)
        assert result.dtype == torch.float32
        assert result.isfinite().all()


def test_features_do_not_depend_on_the_batch() -> None:
    image, label = noise(0, 5)
    whole = ENCODER(image, label)
    assert torch.equal(whole, torch.cat([ENCODER(image[:2], label[:2]), ENCODER(image[2:], label[2:])]))
    assert torch.equal(whole.flip(0), ENCODER(image.flip(0), label.flip(0)))


def test_parts_cover_the_features_and_see_what_they_should() -> None:
    columns = [i for part in PARTS.values() for i in range(FEATURES)[part]]
    assert columns == list(range(FEATURES))
    (image, label), (other_image, other_label) = noise(0), noise(1)
    base, new_label, new_image = (
        ENCODER(i, l) for i, l in ((image, label), (image, other_label), (other_image, label))
    )  # fmt: skip
    assert torch.equal(base[:, IMAGE], new_label[:, IMAGE])
    assert torch.equal(base[:, LABEL], new_image[:, LABEL])
    for changed, part in ((new_label, LABEL), (new_image, IMAGE), (new_label, PAIR), (new_image, PAIR)):
        assert (base[:, part] != changed[:, part]).float().mean() > 0.9


def test_every_structure_counts_and_hu_beyond_the_range_do_not() -> None:
    image, _ = noise(0, 1)
    maps = []
    for value in range(LABEL_COUNT):
        label = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
        label[:, 4:10, 4:10, 4:10] = value
        maps.append(ENCODER(image, label)[0, LABEL])
    for i in range(LABEL_COUNT):
        assert all(not torch.allclose(maps[i], maps[j], atol=1e-3) for j in range(i))
    label = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    assert torch.equal(ENCODER(3 * image, label), ENCODER((3 * image).clamp(-1, 1), label))


@pytest.fixture(scope="module")
def reference() -> NDArray[np.float32]:
    return features(*hearts(40, 0))


def test_a_shift_of_the_heart_is_seen_in_images_and_labels(reference: NDArray[np.float32]) -> None:
    same, near, far = (features(*hearts(24, 1, shift=s)) for s in (0.0, 2.0, 4.0))
    for part in PARTS.values():
        floor, small, large = (kernel_distance(f[:, part], reference[:, part]) for f in (same, near, far))
        assert small > 3 * abs(floor)
        assert large > 2 * small


def test_blur_is_seen_in_images_alone(reference: NDArray[np.float32]) -> None:
    sharp, blurred = features(*hearts(24, 1)), features(*hearts(24, 1, blur=0.7))
    for part in (IMAGE, PAIR):
        assert kernel_distance(blurred[:, part], reference[:, part]) > 10 * abs(
            kernel_distance(sharp[:, part], reference[:, part])
        )
    assert np.array_equal(sharp[:, LABEL], blurred[:, LABEL])


def test_label_maps_of_other_images_are_seen_by_the_pairs_alone() -> None:
    """The images are the same and so are the label maps: only that they do not belong together tells the sets apart."""
    real, scale = features(*hearts(32, 0, jitter=3.0)), Scale.of(features(*hearts(24, 2, jitter=3.0))[:, PAIR])
    image, label = hearts(24, 1, jitter=3.0)
    fit, misfit = features(image, label), features(image, label.roll(1, 0))
    for part in (IMAGE, LABEL):
        assert kernel_distance(misfit[:, part], real[:, part]) == pytest.approx(
            kernel_distance(fit[:, part], real[:, part]), abs=1e-6
        )
    floor, seen = (kernel_distance(f[:, PAIR], real[:, PAIR], scale) for f in (fit, misfit))
    assert seen > 3 * abs(floor)
