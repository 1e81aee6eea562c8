"""Judging an upscaler on photographs: pairs from whole photos, the benchmarks' figures beside bicubic's."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaesr.data import Bank, words_of
from vaesr.evaluators.means import means_with_errors
from vaesr.imaging import imresize, quantise, tiled_apply, to_float
from vaesr.metrics import SR_BENCHMARK, psnr, ssim
from vaesr.reports import comparison_strip

# Pixels a side that SSIM needs (`vaesr.metrics.ssim`).
SSIM_WINDOW = 11
# Maps an image `[h, w, 3]` to `[h * scale, w * scale, 3]`, floats in [0, 1].
UpscaleOne = Callable[[jax.Array], Any]
# `(x_hr [1, H, W, 3], words [1, 4]) -> x_lr`, of `vaesr.data`.
Degradation = Callable[[jax.Array, jax.Array], jax.Array]
# `(reference, image)` `[1, H, W, 3]` floats in [0, 1] -> `[1]`.
Metric = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class PhotoPair:
    """A photo and its low-resolution version, `scale` times smaller.

    `hr` is `[h * scale, w * scale, C]` float32 in [0, 1]; `lr` `[h, w, C]` MATLAB's bicubic reduction of it,
    on the 8-bit grid, or another degradation's. The network is compared with the baseline: "bicubic", or
    "input" (bilinear, where it is enlarged).
    """

    name: str
    scale: int
    hr: jax.Array
    lr: jax.Array
    baseline: str = "bicubic"

    # What follows depends on the photo alone: computed once, however often the pair is evaluated.
    @functools.cached_property
    def enlarged(self) -> jax.Array:
        """`lr` enlarged as the baseline says: the shape of `hr`, neither clipped nor rounded."""
        if self.scale == 1:
            return self.lr
        return imresize(self.lr, self.scale, method="bicubic" if self.baseline == "bicubic" else "bilinear")

    @functools.cached_property
    def baseline_metrics(self) -> dict[str, float]:
        """`bicubic_psnr_y_db` and `bicubic_ssim_y` (or `input_...`), see `measure_pair`."""
        return {f"{self.baseline}_{name}": value for name, value in _measure(self, self.enlarged).items()}

    @functools.cached_property
    def baseline_extra(self) -> dict[str, float]:
        """What further metrics say of `enlarged`, by name; filled by `measure_pair`."""
        return {}


class PhotoPairs:
    """The pairs of a split, made one by one each time they are iterated over; see `photo_pairs`."""

    def __init__(
        self, bank: Bank, index: Sequence[int], scale: int, longest: int, degradation: Degradation | None,
        shrink: int,
    ) -> None:  # fmt: skip
        self._bank, self._index, self._scale, self._longest = bank, index, scale, longest
        self._degradation, self._shrink = degradation, shrink

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[PhotoPair]:
        for index in self._index:
            hr = _crop(self._bank.image(index), self._scale * self._shrink, self._longest * self._shrink)
            if self._shrink > 1:
                hr = quantise(imresize(hr, 1 / self._shrink))
            name, scale = self._bank.names[index], self._scale
            if self._degradation is None:
                yield PhotoPair(name, scale, hr, quantise(imresize(hr, 1 / scale)))
            else:
                lr = self._degradation(hr[None], words_of(index))[0]
                yield PhotoPair(name, scale, hr, lr, baseline="input")


def photo_pairs(
    bank: Bank, split: str, *, scale: int, longest: int, degradation: Degradation | None = None,
    shrink: int = 1,
) -> PhotoPairs:  # fmt: skip
    """Makes a pair of the central crop of every photo of a split.

    Photos too small for the benchmarks' SSIM are left out and named on stderr. That takes their sizes alone:
    no pixel is read before the pairs are iterated over. Sides of the crop in HR pixels are at most `longest`,
    and multiples of `scale`, an integer of at least 1. The degradation stands in place of MATLAB's bicubic
    reduction, see `vaesr.data.DegradedSampler`; each photo's is always the same. Photos are made `shrink`
    times smaller first.

    Returns an iterable of `PhotoPair` with a length, in the bank's order; each iteration makes them anew. A
    ValueError if every photo is too small.
    """
    for name, value in (("scale", scale), ("shrink", shrink)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    least = SSIM_WINDOW + 2 * scale  # what a crop keeps once `scale` pixels are shaved from every side
    if longest // scale * scale < least:
        raise ValueError(
            f"longest must leave crops of {least} pixels in multiples of the scale, {scale}, got {longest}"
        )
    indices = [int(index) for index in bank.split(split)]
    shorter = {i: int(min(bank.height[i], bank.width[i])) // shrink for i in indices}
    kept = [i for i in indices if shorter[i] // scale * scale >= least]
    small = [i for i in indices if shorter[i] // scale * scale < least]
    if not kept:
        raise ValueError(
            f"no photo in {split} of {bank.spec!r} is large enough to be measured at scale {scale}, which "
            f"takes {-(-least // scale) * scale} pixels a side; the largest have {max(shorter.values())}"
        )
    if small:
        names = ", ".join(f"{bank.names[i]} {bank.width[i]}x{bank.height[i]}" for i in small[:5])
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        print(
            f"{bank.spec}: left out of {split}, too small to be measured at scale {scale}: {names}{more}",
            file=sys.stderr,
        )
    return PhotoPairs(bank, kept, scale, longest, degradation, shrink)


def _crop(image: np.ndarray, scale: int, longest: int) -> jax.Array:
    height, width = (min(n, longest) // scale * scale for n in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return to_float(jnp.asarray(image[top : top + height, left : left + width]))


def _measure(pair: PhotoPair, image: jax.Array) -> dict[str, float]:
    protocol = SR_BENCHMARK(pair.scale)
    return {
        "psnr_y_db": float(psnr(pair.hr[None], image[None], protocol=protocol)[0]),
        "ssim_y": float(ssim(pair.hr[None], image[None], protocol=protocol)[0]),
    }


def measure_pair(
    pair: PhotoPair, sr: jax.Array | np.ndarray, *, extra_metrics: Mapping[str, Metric] | None = None
) -> dict[str, float]:
    """Measures one restored photo as the benchmarks do, and the baseline beside it.

    `sr` is what the network made of `pair.lr`: the shape of `pair.hr`, about [0, 1]. Returns `psnr_y_db`,
    `ssim_y`, `bicubic_psnr_y_db`, `bicubic_ssim_y` (or `input_...`, after the pair's baseline) and `gain_db`,
    PSNR over the baseline's: luma, a border of `scale` pixels left out, results rounded to 8 bits. Then what
    every further metric, of RGB rounded to 8 bits, says of both. Source: `vaesr.metrics.SR_BENCHMARK`.
    """
    scores = _measure(pair, jnp.asarray(sr)) | pair.baseline_metrics
    for name, score in (extra_metrics or {}).items():
        scores[name] = float(score(pair.hr[None], quantise(jnp.asarray(sr))[None])[0])
        if name not in pair.baseline_extra:
            pair.baseline_extra[name] = float(score(pair.hr[None], quantise(pair.enlarged)[None])[0])
        scores[f"{pair.baseline}_{name}"] = pair.baseline_extra[name]
    return scores | {"gain_db": scores["psnr_y_db"] - scores[f"{pair.baseline}_psnr_y_db"]}


def measure_pairs(
    pairs: Iterable[PhotoPair],
    upscale_one: UpscaleOne,
    *,
    extra_metrics: Mapping[str, Metric] | None = None,
    say: Callable[[str], Any] | None = None,
    errors: bool = False,
) -> dict[str, float]:
    """Measures an upscaler on photos; each counts once, whatever its size.

    `upscale_one` maps `[h, w, 3]` to `[h * scale, w * scale, 3]`, for the pairs' scale; `say` gets a line for
    each photo. Returns the means of the figures of `measure_pair`; with `errors` also their standard errors
    over photos, see `means_with_errors`.
    """
    rows = []
    for pair in pairs:
        scores = measure_pair(pair, upscale_one(pair.lr), extra_metrics=extra_metrics)
        rows.append(scores)
        if say is not None:
            ours, before = scores["psnr_y_db"], scores[f"{pair.baseline}_psnr_y_db"]
            say(f"  {pair.name}: {ours:.2f} dB, {pair.baseline} {before:.2f} dB")
    if not rows:
        raise ValueError("pairs must hold at least one photo, got none")
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return means_with_errors(columns) if errors else {name: float(v.mean()) for name, v in columns.items()}


def name_by_scale(scores: Mapping[str, float], scale: int) -> dict[str, float]:
    """Names figures after their scale, the unit staying last, and what tells a standard error before it.

    `psnr_y_x2_db` for `psnr_y_db`, `ssim_y_x2` for `ssim_y`, and so on.
    """
    named = {}
    for name, value in scores.items():
        stem, unit = (name[:-3], "_db") if name.endswith("_db") else (name, "")
        error = "_se" if stem.endswith("_se") else ""
        named[f"{stem.removesuffix('_se')}_x{scale}{error}{unit}"] = value
    return named


def tiled_upscaler(
    apply: Callable[..., Any], *, scale: int, halo: int, tile: int = 128, multiple: int = 1
) -> UpscaleOne:
    """Makes a network of batches one of single photos of any size, by exact tiles of one shape.

    `apply`, compiled, maps `[N, h, w, 3]` to `[N, h * scale, w * scale, 3]`; `halo` is its receptive radius
    in LR pixels, `tile` the LR pixels an inner tile provides, at least 1; tiles begin at multiples of
    `multiple` pixels. Returns `[h, w, 3]` -> `[h * scale, w * scale, 3]`; what the network would make of the
    whole photo.
    """
    return lambda lr: tiled_apply(apply, lr, scale=scale, tile=tile, halo=halo, multiple=multiple)


def compare_pair(pair: PhotoPair, sr: jax.Array | np.ndarray, *, label: str) -> np.ndarray:
    """Draws HR, the baseline and what an upscaler called `label` made of `pair.lr` side by side.

    Gives uint8 `[H, W, 3]`, see `vaesr.reports.comparison_strip`; PSNR is `measure_pair`'s.
    """
    panels = [("HR", pair.hr), (pair.baseline, quantise(pair.enlarged)), (label, quantise(jnp.asarray(sr)))]
    return comparison_strip(panels, protocol=SR_BENCHMARK(pair.scale))
