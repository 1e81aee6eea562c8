"""What an experiment measures and draws of a super-resolution network, on photos that it never saw."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn

from vaesr import reports
from vaesr.data import Bank
from vaesr.inference.evaluation import (
    Degradation,
    PhotoPair,
    Score,
    UpscaleOne,
    compare_pair,
    photo_pairs,
    score_pairs,
    tiled_upscaler,
)
from vaesr.metrics import MATLAB_GREY, LpipsNetwork, lpips, niqe

Params = dict[str, Any]
# Validation photos that the report shows.
_STRIPS = 6


def perceptual_opinions(network: LpipsNetwork | None) -> dict[str, Score]:
    """The metrics of perceptual quality that GANs are judged by.

    Args:
        network: LPIPS's with the AlexNet trunk; None leaves LPIPS out.

    Returns:
        `lpips_alex` and `niqe`, for `score_pair`; the lower, the better.
    """

    def of_niqe(reference: jax.Array, image: jax.Array) -> jax.Array:
        return niqe(image, protocol=MATLAB_GREY)

    if network is None:
        return {"niqe": of_niqe}
    placed = jax.device_put(network)
    return {"lpips_alex": lambda reference, image: lpips(reference, image, network=placed), "niqe": of_niqe}


class PhotoStudy:
    """Measures a network on the validation and test photos of a bank, and draws what it makes of them.

    Args:
        bank: of photos.
        model: maps `[N, h, w, 3]` to `[N, h * scale, w * scale, 3]`; has a `scale`, and a
            `receptive_radius` if it may be applied in tiles.
        player: its name in `params` and `variables`.
        label: its name in the pictures.
        eval_crop: side of the central crop of each validation photo.
        test_crop: longest side of the central crop of each test photo.
        opinions: further metrics by name, see `score_pair`.
        degradation: in place of MATLAB's bicubic reduction, see `photo_pairs`.
        shrink: photos are made so many times smaller first.

    Raises:
        ValueError: if a split has no photo that is large enough.
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
        opinions: Mapping[str, Score] | None = None,
        degradation: Degradation | None = None,
        shrink: int = 1,
    ) -> None:
        self.scale, self.player, self.label, self.opinions = model.scale, player, label, dict(opinions or {})
        self.halo: int | None = getattr(model, "receptive_radius", None)
        self.multiple: int = getattr(model, "input_multiple", 1)
        self._apply: Callable[[Any, jax.Array], jax.Array] = jax.jit(model.apply)
        pairs = functools.partial(photo_pairs, bank, scale=self.scale, degradation=degradation, shrink=shrink)
        self.validation = list(pairs("validation", longest=eval_crop))
        # Made here, so that a test split without a photo of the size needed stops a run before it trains.
        self.test = pairs("test", longest=test_crop)

    def upscaler(self, params: Params, variables: Any) -> UpscaleOne:
        """The network for single photos of any size, in tiles where it may.

        Args:
            params: `{player: tree}`.
            variables: `{player: {collection: tree}}`, or without the player.

        Returns:
            `[h, w, 3]` -> `[h * scale, w * scale, 3]`.
        """
        collections = {"params": params[self.player], **(variables or {}).get(self.player, {})}
        apply = functools.partial(self._apply, collections)
        if self.halo is None:
            return lambda lr: apply(lr[None])[0]
        return tiled_upscaler(apply, scale=self.scale, halo=self.halo, multiple=self.multiple)

    def evaluate(self, params: Params, variables: Any) -> dict[str, float]:
        """The figures of the validation photos.

        Args:
            params: `{player: tree}`.
            variables: `{player: {collection: tree}}`.

        Returns:
            The means of `score_pair`'s figures.
        """
        return score_pairs(self.validation, self.upscaler(params, variables), opinions=self.opinions)

    def finish(self, params: Params, variables: Any) -> dict[str, float]:
        """The figures of the test photos, printed one by one.

        Args:
            params: `{player: tree}`.
            variables: `{player: {collection: tree}}`.

        Returns:
            The means of `score_pair`'s figures.
        """
        upscale = self.upscaler(params, variables)
        say = functools.partial(print, flush=True)
        return score_pairs(self.test, upscale, opinions=self.opinions, say=say)

    def figures(self, params: Params, variables: Any, directory: pathlib.Path, step: int) -> None:
        """Strips of the first validation photos: HR, bicubic, the network.

        Args:
            params: `{player: tree}`.
            variables: `{player: {collection: tree}}`.
            directory: where the pictures go.
            step: not used.
        """
        upscale = self.upscaler(params, variables)
        for pair in self.validation[:_STRIPS]:
            strip = compare_pair(pair, upscale(pair.lr), label=self.label)
            reports.save_image(directory / strip_name(pair), strip, caption=f"{pair.name}, never trained on.")


def strip_name(pair: PhotoPair) -> str:
    """The file name of a photo's strip.

    Args:
        pair: the photo.

    Returns:
        A name that ends in .png.
    """
    return f"validation_{pair.name.replace('/', '_')}.png"
