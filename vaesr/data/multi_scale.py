"""Pairs of several scales in one batch, cut from one resident copy of the photographs (for MDSR)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from vaesr.data.pairs import PairSampler
from vaesr.data.sampling import Tree, place


class MultiScaleSampler:
    """One `PairSampler` per scale, side by side: a batch holds `x_lr_2`, `x_hr_2`, `x_lr_3`, ...

    The pairs of each scale are bit for bit those that its own sampler makes of the same key and step.
    Everything of a scale carries its number as a suffix; only the photos themselves are shared. All scales
    are made at each step, although an objective may use one of them: cutting and reducing patches is some
    percent of a training step.

    Args:
        samplers: `{scale: sampler}`, all of one bank, split and batch size; sides of patches may differ.

    Raises:
        ValueError: if there are no samplers, a key is not its sampler's scale, or they differ in bank,
            split or batch size.
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

    def source(self, sharding: jax.sharding.Sharding | None = None) -> Tree:
        """The photos of the split on the device, once for all scales.

        Args:
            sharding: where to; None is the default device, replicated is meant otherwise.

        Returns:
            {"rows": `[R, W, C]` uint8, the photos one below the other; "start_2", ...: `[n]` int32, the
            first rows of the photos that are large enough for the scale's patches}.
        """
        whole = self._widest.source(sharding)
        first = dict(zip(self._widest._index.tolist(), self._widest._start.tolist(), strict=True))
        starts = {
            f"start_{scale}": place(np.array([first[i] for i in sampler._index.tolist()], np.int32), sharding)
            for scale, sampler in self.samplers.items()
        }
        return {"rows": whole["rows"]} | starts

    def draw(self, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """Which patches make batch `step`.

        Args:
            key: the run's data key.
            step: int32 scalar.
            position: `[B]` int32 places in the global batch; a shard asks for its own.

        Returns:
            What `PairSampler.draw` returns, for each scale: {"photo_2", "top_2", ...}, `[B]` int32.
        """
        return {
            f"{name}_{scale}": value
            for scale, sampler in self.samplers.items()
            for name, value in sampler.draw(key, step, position).items()
        }

    def gather(self, source: Tree, draw: dict[str, Array]) -> dict[str, Array]:
        """Read the drawn HR regions on the device.

        Args:
            source: of `source()`.
            draw: of `draw`.

        Returns:
            {"region_2": `[B, region, region, C]` uint8, ...}: the HR patches and their margins.
        """
        return {
            f"region_{scale}": sampler.gather(
                {"rows": source["rows"], "start": source[f"start_{scale}"]}, _of(draw, scale)
            )
            for scale, sampler in self.samplers.items()
        }

    def gather_host(self, draw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Read the drawn HR regions from the memory map.

        Args:
            draw: of `draw`, as numpy.

        Returns:
            The same as `gather`, as numpy.
        """
        return {
            f"region_{scale}": sampler.gather_host(_of(draw, scale))
            for scale, sampler in self.samplers.items()
        }

    def finish(self, raw: Tree, draw: dict[str, Array]) -> dict[str, Array]:
        """HR regions to a batch of pairs.

        Args:
            raw: of `gather` or `gather_host`.
            draw: of `draw`.

        Returns:
            {"x_lr_2": `[B, patch, patch, C]`, "x_hr_2": `[B, patch*2, patch*2, C]`, ...}, float32 in [0, 1].
        """
        return {
            f"{name}_{scale}": value
            for scale, sampler in self.samplers.items()
            for name, value in sampler.finish(raw[f"region_{scale}"], _of(draw, scale)).items()
        }

    def __call__(self, source: Tree, *, key: Array, step: Array, position: Array) -> dict[str, Array]:
        draw = self.draw(key, step, position)
        return self.finish(self.gather(source, draw), draw)

    def host_batch(self, source: Tree, *, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """The batch of what `HostLoader` gathered.

        Args:
            source: {"raw", "draw"} of this step.
            key: not used: the drawing was done on the host.
            step: not used.
            position: not used.

        Returns:
            As `finish`.
        """
        return self.finish(source["raw"], source["draw"])


def _of(draw: dict[str, Any], scale: int) -> dict[str, Any]:
    """The part of a draw that belongs to one scale, under the names of its sampler."""
    suffix = f"_{scale}"
    return {name.removesuffix(suffix): value for name, value in draw.items() if name.endswith(suffix)}
