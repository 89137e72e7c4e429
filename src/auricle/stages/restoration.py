"""Texture restoration: generated soft tissue gets the noise of a scan in place of what the autoencoder leaves there.

A decoder cannot reproduce noise and writes slow blotches of its own instead. Inside each structure and inside fat these are flattened, voxels
that stand out (valves, leads, calcium, trabeculae) left alone; then noise is added whose SD by tissue and power spectrum are those of one training
image, chosen at random for each pair, so that pairs differ in noise as scans do. Edges, lung and bone are left as they are, or taken from an
image that the refiner made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from auricle.core import progress
from auricle.core.anatomy import ID
from auricle.core.errors import InputError
from auricle.core.files import read_json, write_json
from auricle.core.seeds import numpy_generator
from auricle.data.preprocess import CLIP_HU
from auricle.metrics import texture
from auricle.metrics.texture import Grain
from auricle.stages.pairs import Pairs

Volume = NDArray[np.float32]
Spacing = tuple[float, float, float]
FILE = "texture.json"
MOST_CASES = 32
"""Training cases whose texture is kept."""
FLAT_MM = 14.0
"""SD of the Gaussian that flattens: takes what is finer than about 50 mm, a decoder's blotches (of 10 to 30 mm) among it."""
STANDS_OUT_HU = 60.0
"""A voxel farther than this from its flattened surroundings is no blotch (SD about 13 HU): contrast that mixes, valves, leads, trabeculae."""


def learn(pairs: Pairs, path: Path) -> None:
    """Write the texture of up to `MOST_CASES` training images, evenly chosen."""
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(MOST_CASES, len(pairs))).round().astype(int)).tolist()
    grains = []
    for i in progress.track(chosen, "texture", len(chosen)):
        image, label = pairs.hu(i)
        image = np.clip(image, -CLIP_HU, CLIP_HU)
        grains.append(texture.grain(image, image, label, pairs.grid.spacing))
    if not any(grains):
        progress.notice("no training case shows enough quiet blood and muscle to learn its noise from: pairs keep the texture of the decoder")
    write_json(path, {"grains": [asdict(g) for g in grains if g is not None]})


def load(folder: Path) -> list[Grain]:
    """What `learn` wrote to the autoencoder's `folder`; raises `InputError` where there is none."""
    try:
        return [Grain(**g) for g in read_json(folder / FILE)["grains"]]
    except FileNotFoundError:
        raise InputError(f"{folder} keeps no texture of its training cases: train it again, or take --no-restore") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / FILE} is damaged ({error}): train the autoencoder again, or take --no-restore") from None


def restore(
    image: NDArray[Any], label: NDArray[np.uint8], spacing: Spacing, grains: Sequence[Grain], seed: int, index: int, refined: Volume | None = None
) -> Volume:  # fmt: skip
    """`image` (HU) flattened in soft tissue, with noise of the SD and spectrum of one of `grains`, both drawn from `seed` and `index`.

    Where the flattened image still varies, only what is missing to the training image's variance is added. `refined`, the same image with its
    noise and detail already put back by the refiner, is taken where nothing was flattened. The result is clipped to the HU range that networks
    see; an empty list of `grains` flattens nothing.
    """
    clipped = np.clip(np.asarray(image, np.float32), -CLIP_HU, CLIP_HU)
    if not grains:
        return clipped if refined is None else refined
    flat, share = flatten(clipped, label, spacing)
    rng, grain = _drawn(grains, seed, index)
    left = texture.textures(flat, label, spacing)
    sd = {k: max(grain.sd_hu[k] ** 2 - (t.sd_hu**2 if t is not None else 0.0), 0.0) ** 0.5 for k, t in left.items()}
    # In lung and bone a training image's variation is structure, which is no noise: they get fat's, the least structured tissue's.
    grain = replace(grain, sd_hu={k: sd.get(k, sd["fat"]) for k in grain.sd_hu})
    noise = texture.synthesize(flat.shape, grain, rng) * texture.sd_map(grain, flat, label)
    restored = flat + noise
    if refined is not None:
        restored = refined + share * (restored - refined)
    return np.asarray(np.clip(restored, -CLIP_HU, CLIP_HU), np.float32)


def loudness(grains: Sequence[Grain], seed: int, index: int) -> float:
    """Rank, 0 (quietest) to 1 (loudest), of the noise that `restore` gives candidate `index` among those of `grains`; a half for fewer than two."""
    if len(grains) < 2:
        return 0.5
    drawn = _drawn(grains, seed, index)[1].sd_hu["blood"]
    return sum(g.sd_hu["blood"] < drawn for g in grains) / (len(grains) - 1)


def _drawn(grains: Sequence[Grain], seed: int, index: int) -> tuple[np.random.Generator, Grain]:
    rng = numpy_generator(seed, "texture", index)
    return rng, grains[int(rng.integers(len(grains)))]


def flatten(image: Volume, label: NDArray[np.uint8], spacing: Spacing) -> tuple[Volume, Volume]:
    """`image` (HU) with each blood pool, myocardium and fat smoothed within itself, and the share of smoothing, 0..1, at each voxel.

    Within a voxel of a tissue's border nothing is smoothed, and less where more than three of 26 neighbors are another tissue; the image's edges
    are no border.
    """
    out, share = image.copy(), np.zeros_like(image)
    sigma = [FLAT_MM / s for s in spacing]
    for mask in _tissues(image, label):
        inner = ndimage.binary_erosion(mask, border_value=1)
        if not inner.any():
            continue
        for _ in range(2):
            mean = _average(image, inner, sigma)
            inner = inner & (np.abs(image - mean) < STANDS_OUT_HU)
        weight = np.where(inner, (ndimage.uniform_filter(mask.astype(np.float32), 3) * 3 - 5 / 3).clip(0, 1), 0)
        out += weight * (_average(image, inner, sigma) - image)
        share += weight
    return out, share


def _tissues(image: Volume, label: NDArray[np.uint8]) -> Iterator[NDArray[np.bool_]]:
    for key in (*texture.POOLS, "MYO"):
        yield label == ID[key]
    smooth = ndimage.gaussian_filter(image, texture.SMOOTH_VOXELS)
    yield (label == 0) & (smooth > texture.FAT_HU[0]) & (smooth < texture.FAT_HU[1])


def _average(image: Volume, mask: NDArray[np.bool_], sigma: Sequence[float]) -> Volume:
    """Gaussian average over the mask alone (normalized convolution, Knutsson and Westin 1993)."""
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    return np.asarray(ndimage.gaussian_filter(np.where(mask, image, 0), sigma) / np.maximum(weight, 1e-3), np.float32)
