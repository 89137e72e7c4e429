"""Texture restoration on a synthetic heart: blotches go, noise of the training image comes, what stands out stays."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from auricle.core.anatomy import ID
from auricle.metrics import texture
from auricle.metrics.texture import Grain
from auricle.stages import restoration

SPACING = (2.0, 2.0, 2.5)
SHAPE = (48, 48, 40)


def heart() -> tuple[np.ndarray, np.ndarray]:
    """A ball of blood in a shell of muscle in fat: HU and labels."""
    at = np.stack(np.meshgrid(*[np.arange(n) - n / 2 for n in SHAPE], indexing="ij"))
    radius = np.sqrt(((at * np.array(SPACING)[:, None, None, None]) ** 2).sum(0))
    label = np.where(radius < 26, ID["LV"], np.where(radius < 36, ID["MYO"], 0)).astype(np.uint8)
    return np.select([label == ID["LV"], label == ID["MYO"]], [400.0, 100.0], -100.0).astype(np.float32), label


def noisy(sd: float, seed: int = 0, smooth: float = 0.0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(SHAPE)
    if smooth:
        noise = ndimage.gaussian_filter(noise, smooth)
    return (noise / noise.std() * sd).astype(np.float32)


@pytest.fixture(scope="module")
def grains() -> list[Grain]:
    hu, label = heart()
    image = hu + noisy(20.0, 5)
    found = texture.grain(image, image, label, SPACING)
    assert found is not None
    return [found]


def test_blotches_are_replaced_by_the_training_images_noise(grains: list[Grain]) -> None:
    hu, label = heart()
    decoded = hu + noisy(9.0, 1, smooth=1.5)
    restored = restoration.restore(decoded, label, SPACING, grains, 0, 0)
    for tissue, found in texture.textures(restored, label, SPACING).items():
        assert found is not None
        assert found.sd_hu == pytest.approx(20.0, rel=0.1), tissue
    flat, _ = restoration.flatten(decoded, label, SPACING)
    before, after = texture.textures(decoded, label, SPACING), texture.textures(flat, label, SPACING)
    assert all(after[t].sd_hu < 0.7 * before[t].sd_hu for t in ("blood", "myocardium"))  # type: ignore[union-attr]


def test_flattening_keeps_edges_means_and_what_stands_out() -> None:
    hu, label = heart()
    decoded = hu + noisy(9.0, 1, smooth=1.5)
    decoded[24, 24, 10:30] = 1000.0  # a lead in the ventricle
    flat, _ = restoration.flatten(decoded, label, SPACING)
    assert np.array_equal(flat[24, 24, 12:28], decoded[24, 24, 12:28])
    border = ndimage.binary_dilation(label == ID["LV"]) & ~ndimage.binary_erosion(label == ID["LV"])
    assert np.array_equal(flat[border], decoded[border])
    inside = ndimage.binary_erosion(label == ID["LV"], iterations=3)
    inside[23:26, 23:26] = False
    assert flat[inside].mean() == pytest.approx(400.0, abs=2.0)
    assert np.abs(restoration.flatten(hu, label, SPACING)[0] - hu).max() < 0.5


def test_flattening_reaches_the_edges_of_the_image_and_close_to_a_tissues_border() -> None:
    hu, label = heart()
    decoded = hu + noisy(9.0, 1, smooth=1.5)
    flat, share = restoration.flatten(decoded, label, SPACING)
    edge = np.ones(SHAPE, bool)
    edge[1:-1, 1:-1, 1:-1] = False
    edge &= ndimage.distance_transform_edt(label == 0, sampling=SPACING) > 10
    assert share[edge].min() == 1
    assert (flat - hu)[edge].std() < 0.5 * (decoded - hu)[edge].std()
    third = ndimage.binary_erosion(label == ID["LV"], iterations=3)
    assert share[third].min() == 1


def test_one_seed_and_index_give_one_image_and_others_another(grains: list[Grain]) -> None:
    hu, label = heart()
    louder = replace(grains[0], sd_hu={k: 3 * v for k, v in grains[0].sd_hu.items()})
    a, b, c = (restoration.restore(hu, label, SPACING, [grains[0], louder], 0, i) for i in (4, 4, 5))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    # Pairs differ in noise as the training images do.
    sd = [float((restoration.restore(hu, label, SPACING, [grains[0], louder], 0, i) - hu)[label == ID["LV"]].std()) for i in range(8)]
    assert max(sd) > 2 * min(sd)


def test_without_grains_and_in_range_nothing_changes_but_the_range(grains: list[Grain]) -> None:
    hu, label = heart()
    hu[0, 0, 0], hu[1, 1, 1] = 2000.0, -3000.0
    assert np.array_equal(restoration.restore(hu, label, SPACING, [], 0, 0), np.clip(hu, -1000, 1000))
    restored = restoration.restore(hu, label, SPACING, grains, 0, 0)
    assert restored.min() >= -1000
    assert restored.max() <= 1000


def test_a_refined_image_is_taken_where_nothing_was_flattened(grains: list[Grain]) -> None:
    hu, label = heart()
    refined = hu + 50.0
    _, share = restoration.flatten(hu, label, SPACING)
    plain = restoration.restore(hu, label, SPACING, grains, 0, 0)
    both = restoration.restore(hu, label, SPACING, grains, 0, 0, refined)
    assert 0.2 < (share == 1).mean() < 1
    assert (share == 0).any()
    assert np.allclose(both[share == 1], plain[share == 1], atol=1e-3)
    assert np.array_equal(both[share == 0], refined[share == 0])
    assert np.array_equal(restoration.restore(hu, label, SPACING, [], 0, 0, refined), refined)


def test_loudness_ranks_the_noise_that_is_restored(grains: list[Grain]) -> None:
    several = [replace(grains[0], sd_hu=dict.fromkeys(grains[0].sd_hu, sd)) for sd in (30.0, 10.0, 20.0)]
    hu, label = heart()
    found = {}
    for index in range(12):
        restored = texture.textures(restoration.restore(hu, label, SPACING, several, 0, index), label, SPACING)["blood"]
        assert restored is not None
        found[restoration.loudness(several, 0, index)] = round(restored.sd_hu / 10) * 10
    assert sorted(found.items()) == [(0.0, 10), (0.5, 20), (1.0, 30)]
    assert restoration.loudness(several[:1], 0, 0) == restoration.loudness([], 0, 0) == 0.5
