"""What an experiment measures and draws of a super-resolution network, on photos that it never saw."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn

from vaesr import reports
from vaesr.data import Bank
from vaesr.evaluators.pairs import (
    Degradation,
    Metric,
    PhotoPair,
    UpscaleOne,
    compare_pair,
    measure_pairs,
    photo_pairs,
    tiled_upscaler,
)
from vaesr.metrics import MATLAB_GREY, LpipsNetwork, lpips, niqe

Params = dict[str, Any]
# Validation photos that the report shows.
_STRIPS = 6


def perceptual_metrics(network: LpipsNetwork | None) -> dict[str, Metric]:
    """The metrics of perceptual quality that GANs are judged by, for `measure_pair`; the lower, the better.

    `lpips_alex` (of a network with the AlexNet trunk; None leaves it out) and `niqe`.
    """

    def of_niqe(reference: jax.Array, image: jax.Array) -> jax.Array:
        return niqe(image, protocol=MATLAB_GREY)

    if network is None:
        return {"niqe": of_niqe}
    placed = jax.device_put(network)
    return {"lpips_alex": lambda reference, image: lpips(reference, image, network=placed), "niqe": of_niqe}


class PhotoEvaluator:
    """Measures a network on the validation and test photos of a bank, and draws what it makes of them.

    The model maps `[N, h, w, 3]` to `[N, h * scale, w * scale, 3]`; has a `scale`, and a `receptive_radius`
    if it may be applied in tiles. `player` is its name in `params` and `variables`, `label` in the pictures.
    The central crops of photos have the side `eval_crop` in validation and at most `test_crop` in test. For
    `extra_metrics` see `measure_pair`; for the degradation, in place of MATLAB's bicubic reduction, and for
    how many times smaller the photos are made first, `photo_pairs`.
    """

    def __init__(
        self,
        bank: Bank,
        model: nn.Module,
        *,
        player: str,
        label: str,
        eval_crop: int,
        test_crop: int,
        extra_metrics: Mapping[str, Metric] | None = None,
        degradation: Degradation | None = None,
        shrink: int = 1,
    ) -> None:
        self.scale, self.player, self.label = model.scale, player, label
        self.extra_metrics = dict(extra_metrics or {})
        self.halo: int | None = model.receptive_radius
        self.multiple: int = model.input_multiple
        self._apply: Callable[[Any, jax.Array], jax.Array] = jax.jit(model.apply)
        pairs = functools.partial(photo_pairs, bank, scale=self.scale, degradation=degradation, shrink=shrink)
        self.validation = list(pairs("validation", longest=eval_crop))
        # Made here, so that a test split without a photo of the size needed stops a run before it trains.
        self.test = pairs("test", longest=test_crop)

    def upscaler(self, params: Params, variables: Any) -> UpscaleOne:
        """The network for single photos of any size, in tiles where it may.

        `[h, w, 3]` -> `[h * scale, w * scale, 3]`. The variables are `{player: {collection: tree}}`, or
        without the player.
        """
        collections = {"params": params[self.player], **(variables or {}).get(self.player, {})}
        apply = functools.partial(self._apply, collections)
        if self.halo is None:
            return lambda lr: apply(lr[None])[0]
        return tiled_upscaler(apply, scale=self.scale, halo=self.halo, multiple=self.multiple)

    def evaluate(self, params: Params, variables: Any) -> dict[str, float]:
        """The means of `measure_pair`'s figures over the validation photos."""
        return measure_pairs(
            self.validation, self.upscaler(params, variables), extra_metrics=self.extra_metrics
        )

    def evaluate_test(self, params: Params, variables: Any) -> dict[str, float]:
        """Means and standard errors of `measure_pair`'s figures over the test photos, printed one by one."""
        upscale = self.upscaler(params, variables)
        say = functools.partial(print, flush=True)
        return measure_pairs(self.test, upscale, extra_metrics=self.extra_metrics, say=say, errors=True)

    def figures(self, params: Params, variables: Any, directory: pathlib.Path, step: int) -> None:
        """Strips of the first validation photos: HR, bicubic, the network."""
        upscale = self.upscaler(params, variables)
        for pair in self.validation[:_STRIPS]:
            strip = compare_pair(pair, upscale(pair.lr), label=self.label)
            reports.save_image(directory / strip_name(pair), strip, caption=f"{pair.name}, never trained on.")


def strip_name(pair: PhotoPair) -> str:
    """The file name of a photo's strip, which ends in .png."""
    return f"validation_{pair.name.replace('/', '_')}.png"
