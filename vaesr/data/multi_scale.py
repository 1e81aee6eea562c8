"""Pairs of several scales in one batch, cut from one resident copy of the photographs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import Array

from vaesr.data.pairs import PairSampler
from vaesr.data.sampling import Sampler, Tree


class MultiScaleSampler(Sampler):
    """One `PairSampler` per scale, side by side: a batch holds `x_lr_2`, `x_hr_2`, `x_lr_3`, ...

    The pairs of each scale are bit for bit those that its own sampler makes of the same key and step.
    Everything of a scale carries its number as a suffix; only the photos themselves are shared. All scales
    are made at each step, although an objective may use one of them: cutting and reducing patches is some
    percent of a training step. The samplers, by scale, are of one bank, split and batch size; sides of
    patches may differ.
    """

    def __init__(self, samplers: Mapping[int, PairSampler]) -> None:
        if not samplers:
            raise ValueError(
                "MultiScaleSampler: samplers is empty; expected {scale: PairSampler}, one a scale"
            )
        self.samplers = dict(sorted(samplers.items()))
        # The smallest region fits into the most photos: its sampler's photos include those of the others.
        self._widest = min(self.samplers.values(), key=lambda sampler: sampler.region)
        self.bank, self.batch_size = self._widest.bank, self._widest.batch_size
        for scale, sampler in self.samplers.items():
            if sampler.scale != scale:
                raise ValueError(f"MultiScaleSampler: samplers[{scale}] has scale {sampler.scale}")
            if sampler.bank is not self._widest.bank:
                raise ValueError(
                    "MultiScaleSampler: the samplers must share one bank, got "
                    f"{self._widest.bank.spec!r} and {sampler.bank.spec!r}, opened separately"
                )
            for name in ("split", "batch_size"):
                ours, theirs = getattr(self._widest, name), getattr(sampler, name)
                if ours != theirs:
                    raise ValueError(
                        f"MultiScaleSampler: the samplers must share one {name}, got {ours!r} and {theirs!r}"
                    )

    @property
    def scales(self) -> tuple[int, ...]:
        """The scales, ascending."""
        return tuple(self.samplers)

    @property
    def nbytes(self) -> int:
        """Bytes of `source()`: of the photos, which the scales share."""
        return self._widest.nbytes

    def resident(self) -> dict[str, np.ndarray]:
        """The photos, "rows", once, and "start_2", ...: where those large enough for a scale begin."""
        first = dict(zip(self._widest._index.tolist(), self._widest._start.tolist(), strict=True))
        starts = {
            f"start_{scale}": np.array([first[i] for i in sampler._index.tolist()], np.int32)
            for scale, sampler in self.samplers.items()
        }
        return {"rows": self._widest.resident()["rows"]} | starts

    def draw(self, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """What each scale's sampler draws: "photo_2", "top_2", ..."""
        return {
            f"{name}_{scale}": value
            for scale, sampler in self.samplers.items()
            for name, value in sampler.draw(key, step, position).items()
        }

    def gather(self, source: Tree, draw: dict[str, Array]) -> dict[str, Array]:
        """HR patches and their margins: {"region_2": `[B, region, region, C]` uint8, ...}."""
        return {
            f"region_{scale}": sampler.gather(
                {"rows": source["rows"], "start": source[f"start_{scale}"]}, _of(draw, scale)
            )
            for scale, sampler in self.samplers.items()
        }

    def gather_host(self, draw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The same as `gather`, as numpy."""
        return {
            f"region_{scale}": sampler.gather_host(_of(draw, scale))
            for scale, sampler in self.samplers.items()
        }

    def finish(self, raw: Tree, draw: dict[str, Array]) -> dict[str, Array]:
        """HR regions to {"x_lr_2", "x_hr_2", ...}, see `PairSampler`."""
        return {
            f"{name}_{scale}": value
            for scale, sampler in self.samplers.items()
            for name, value in sampler.finish(raw[f"region_{scale}"], _of(draw, scale)).items()
        }


def _of(draw: dict[str, Any], scale: int) -> dict[str, Any]:
    """The part of a draw that belongs to one scale, under the names of its sampler."""
    suffix = f"_{scale}"
    return {name.removesuffix(suffix): value for name, value in draw.items() if name.endswith(suffix)}
