"""VQ-VAE (van den Oord et al. 2017) and VQ-VAE-2 (Razavi et al. 2019): images as maps of discrete codes.

One network for both: each further level of codes halves the map's side. The coarsest map is quantised first;
every finer one sees it decoded, and the decoder sees them all.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.distributions import example_keys
from vaesr.layers.conv import Conv, Precision
from vaesr.layers.quantisers import (
    CodebookUpdate,
    FiniteScalarQuantiser,
    InitialCodes,
    Quantised,
    ResidualQuantiser,
    VectorQuantiser,
)
from vaesr.layers.resampling import ConvTranspose, DownConv

_DROP_TAG = 0xD30B


class VQOutput(NamedTuple):
    """What the network makes of a batch.

    Attributes:
        reconstruction: `[B, H, W, C]` float32, around [0, 1] but not clipped.
        quantised: per level, the coarsest first.
    """

    reconstruction: jax.Array
    quantised: tuple[Quantised, ...]


class ResidualStack(nn.Module):
    """Blocks of ReLU, 3x3 and 1x1 convolutions around a shortcut, then a ReLU.

    Attributes:
        blocks: how many.
        hidden: channels inside a block.
        dtype: compute type.
        precision: of float32 multiplications on accelerators.
    """

    blocks: int
    hidden: int
    dtype: Any = jnp.float32
    precision: str = "default"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to the same shape."""
        for _ in range(self.blocks):
            y = Conv(self.hidden, 3, self.dtype, precision=self.precision)(nn.relu(x))
            x = x + Conv(x.shape[-1], 1, self.dtype, precision=self.precision)(nn.relu(y))
        return nn.relu(x)


class Encoder(nn.Module):
    """Convolutions that halve the size some times, one that keeps it, and a residual stack.

    Attributes:
        halvings: how often the size is halved, at least 1.
        channels: of the features.
        blocks: residual blocks.
        hidden: channels inside them.
        dtype: compute type.
        precision: of float32 multiplications on accelerators.
    """

    halvings: int
    channels: int
    blocks: int
    hidden: int
    dtype: Any = jnp.float32
    precision: str = "default"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H / 2^halvings, W / 2^halvings, channels]`."""
        common = {"dtype": self.dtype, "precision": self.precision}
        for number in range(self.halvings):
            x = nn.relu(DownConv(self.channels // 2 if number == 0 else self.channels, **common)(x))
        x = Conv(self.channels, 3, **common)(x)
        return ResidualStack(self.blocks, self.hidden, **common)(x)


class Decoder(nn.Module):
    """A convolution, a residual stack, and transposed convolutions that double the size some times.

    Attributes:
        doublings: how often the size is doubled, at least 1.
        features: output channels.
        channels: of the features.
        blocks: residual blocks.
        hidden: channels inside them.
        dtype: compute type.
        precision: of float32 multiplications on accelerators.
    """

    doublings: int
    features: int
    channels: int
    blocks: int
    hidden: int
    dtype: Any = jnp.float32
    precision: str = "default"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H * 2^doublings, W * 2^doublings, features]`."""
        common = {"dtype": self.dtype, "precision": self.precision}
        x = Conv(self.channels, 3, **common)(x)
        x = ResidualStack(self.blocks, self.hidden, **common)(x)
        for _ in range(self.doublings - 1):
            x = nn.relu(ConvTranspose(self.channels // 2, **common)(x))
        return ConvTranspose(self.features, **common)(x)


class VQVAE(nn.Module):
    """An autoencoder whose bottleneck is one or more maps of discrete codes.

    Attributes:
        image_shape: (H, W, C); H and W are multiples of `factor * 2^(levels - 1)`.
        levels: code maps: 1 is VQ-VAE, 2 and 3 are VQ-VAE-2.
        factor: pixels per code of the finest map along a side, a power of 2 of at least 2; every further map
            is half as large.
        channels: channels of the convolutions; 256 in VQ-VAE, 128 in VQ-VAE-2.
        res_blocks: residual blocks of each encoder and decoder; 2 in the papers.
        res_channels: channels inside the residual blocks; 256 in VQ-VAE, 64 in VQ-VAE-2.
        codes: K, codes in each codebook; 512 in the papers.
        code_dim: D, dimensions of a code; 64 in VQ-VAE-2.
        quantiser: vectors from a codebook, numbers rounded to a grid ("fsq"), or several vectors added up.
        grid: "fsq": levels of each dimension.
        depth: "residual": codebooks; their codes stand side by side, so that maps are `depth` times as wide.
        update: the codebook follows moving averages of the encoder's outputs, or a loss of its own.
        decay: share of the moving averages that a step keeps, in [0, 1).
        initial: first codes: random ("uniform" in ±1/K), or the k-means of the first batch.
        revive_below: codes used less often per batch (on average) are replaced by vectors of the batch; 0
            never does.
        cosine: compare directions only.
        drop_finer: share of training images that are decoded from the coarsest map alone, so that this map
            says by itself what it can; in [0, 1), needs several levels.
        axis_name: of the axis that `pmap` maps.
        dtype: compute type; quantisers are float32 always.
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.
    """

    image_shape: tuple[int, int, int] = (32, 32, 3)
    levels: int = 1
    factor: int = 4
    channels: int = 128
    res_blocks: int = 2
    res_channels: int = 32
    codes: int = 512
    code_dim: int = 64
    quantiser: Literal["vector", "fsq", "residual"] = "vector"
    grid: tuple[int, ...] = (8, 5, 5, 5)
    depth: int = 4
    update: CodebookUpdate = "ema"
    decay: float = 0.99
    initial: InitialCodes = "uniform"
    revive_below: float = 0.0
    cosine: bool = False
    drop_finer: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32
    precision: Precision = "default"

    @property
    def code_shapes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each code map, the coarsest first."""
        height, width, _ = self.image_shape
        sides = [self.factor * 2**level for level in reversed(range(self.levels))]
        wide = self.depth if self.quantiser == "residual" else 1
        return tuple((height // side, width // side * wide) for side in sides)

    @property
    def code_count(self) -> int:
        """K, the number of codes of each map."""
        return math.prod(self.grid) if self.quantiser == "fsq" else self.codes

    def setup(self) -> None:
        self._check()
        common = {"dtype": self.dtype, "precision": self.precision}
        size = {
            "channels": self.channels, "blocks": self.res_blocks, "hidden": self.res_channels, **common
        }  # fmt: skip
        halvings = int(math.log2(self.factor))
        # From the finest level up, as the features flow; the quantisers from the coarsest down.
        self.encoders = [Encoder(halvings if level == 0 else 1, **size) for level in range(self.levels)]
        self.projections = [Conv(self.code_dim, 1, **common) for _ in range(self.levels)]
        self.quantisers = [self._quantiser() for _ in range(self.levels)]
        self.between = [Decoder(1, self.code_dim, **size) for _ in range(self.levels - 1)]
        self.upsamplers = [ConvTranspose(self.code_dim * (n + 1), **common) for n in range(self.levels - 1)]
        self.decoder = Decoder(halvings, self.image_shape[2], **size)

    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool = False,
        key: jax.Array | None = None,
        position: jax.Array | None = None,
    ) -> VQOutput:
        """Encode, quantise and reconstruct.

        Args:
            images: `[B, H, W, C]` in [0, 1].
            train: let the codebooks learn, if their collection is mutable.
            key: one random key; needed in training by k-means, revival and `drop_finer`.
            position: `[B]` int32, each example's index in the global batch; `arange(B)` if absent.

        Returns:
            See `VQOutput`.

        Raises:
            ValueError: if the images don't have `image_shape` or a field is out of range.
        """
        if images.ndim != 4 or images.shape[1:] != tuple(self.image_shape):
            raise ValueError(f"images must be [B, {self.image_shape}], got {images.shape}.")
        quantised, values = self._quantise(images, train, key)
        if train and self.drop_finer:
            values = self._drop(values, key, position)
        return VQOutput(self._reconstruct(values), quantised)

    def _drop(
        self, values: tuple[jax.Array, ...], key: jax.Array | None, position: jax.Array | None
    ) -> tuple[jax.Array, ...]:
        """Zeros for all levels but the coarsest, in some of the examples."""
        if key is None:
            raise ValueError("key is needed in training with drop_finer.")
        position = jnp.arange(values[0].shape[0]) if position is None else position
        keys = example_keys(jax.random.fold_in(key, _DROP_TAG), position)
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.drop_finer))(keys)
        return (values[0], *(jnp.where(kept.reshape(-1, 1, 1, 1), level, 0.0) for level in values[1:]))

    def encode(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """Give the code maps of images.

        Args:
            images: `[B, H, W, C]` in [0, 1].

        Returns:
            int32 `[B, h, w]` per level, the coarsest first, see `code_shapes`.
        """
        quantised, _ = self._quantise(images, False, None)
        return tuple(
            level.codes.reshape(-1, *shape) for level, shape in zip(quantised, self.code_shapes, strict=True)
        )

    def decode(self, codes: tuple[jax.Array, ...], *, keep: int | None = None) -> jax.Array:
        """Give the images of code maps.

        Args:
            codes: int32 `[B, h, w]` per level, the coarsest first.
            keep: use the `keep` coarsest maps alone; zeros stand for the others. None uses all.

        Returns:
            `[B, H, W, C]` float32, around [0, 1] but not clipped.

        Raises:
            ValueError: if there is not one map per level or `keep` is out of range.
        """
        if len(codes) != self.levels:
            raise ValueError(f"codes must hold {self.levels} maps, the coarsest first, got {len(codes)}.")
        keep = self.levels if keep is None else keep
        if not 1 <= keep <= self.levels:
            raise ValueError(f"keep must lie in [1, {self.levels}], got {keep}.")
        values = []
        for number, (level, quantiser) in enumerate(zip(codes, self.quantisers, strict=True)):
            if quantiser.code_axes:
                level = level.reshape(*level.shape[:2], -1, self.depth)
            found = quantiser.lookup(level)
            values.append(found if number < keep else jnp.zeros_like(found))
        return self._reconstruct(tuple(values))

    def _quantise(
        self, images: jax.Array, train: bool, key: jax.Array | None
    ) -> tuple[tuple[Quantised, ...], tuple[jax.Array, ...]]:
        features, x = [], (2.0 * images - 1.0).astype(self.dtype)
        for encoder in self.encoders:
            x = encoder(x)
            features.append(x)
        quantised: list[Quantised] = []
        above = None
        for number, own in enumerate(reversed(features)):
            if above is not None:
                decoded = self.between[number - 1](above.astype(self.dtype))
                own = jnp.concatenate([decoded, own], axis=-1)
            z = self.projections[number](own)
            level_key = None if key is None else jax.random.fold_in(key, number)
            quantised.append(self.quantisers[number](z, train=train, key=level_key))
            above = self._join(above, quantised[-1].values, number)
        return tuple(quantised), tuple(level.values for level in quantised)

    def _join(self, above: jax.Array | None, values: jax.Array, number: int) -> jax.Array:
        """All levels so far at the size of the last one."""
        values = values.astype(self.dtype)
        if above is None:
            return values
        return jnp.concatenate([self.upsamplers[number - 1](above), values], axis=-1)

    def _reconstruct(self, values: tuple[jax.Array, ...]) -> jax.Array:
        joined = self._join(None, values[0], 0)
        for number, level in enumerate(values[1:], 1):
            joined = self._join(joined, level, number)
        return 0.5 * self.decoder(joined).astype(jnp.float32) + 0.5

    def _quantiser(self) -> Any:
        common: dict[str, Any] = {
            "codes": self.codes, "update": self.update, "decay": self.decay, "initial": self.initial,
            "revive_below": self.revive_below, "axis_name": self.axis_name,
        }  # fmt: skip
        if self.quantiser == "vector":
            return VectorQuantiser(cosine=self.cosine, **common)
        if self.quantiser == "fsq":
            return FiniteScalarQuantiser(tuple(self.grid), axis_name=self.axis_name)
        return ResidualQuantiser(self.depth, **common)

    def _check(self) -> None:
        if not 0 <= self.drop_finer < 1 or (self.drop_finer and self.levels < 2):
            raise ValueError(
                f"drop_finer must lie in [0, 1) and needs several levels, got {self.drop_finer} with "
                f"{self.levels}."
            )
        if self.quantiser not in ("vector", "fsq", "residual"):
            raise ValueError(f"quantiser must be vector, fsq or residual, got {self.quantiser!r}.")
        if self.levels < 1 or self.factor < 2 or self.factor & (self.factor - 1):
            raise ValueError(
                f"levels must be at least 1 and factor a power of 2 of at least 2, got {self.levels} and "
                f"{self.factor}."
            )
        height, width, _ = self.image_shape
        side = self.factor * 2 ** (self.levels - 1)
        if height % side or width % side:
            raise ValueError(
                f"images of {height} x {width} pixels can't be divided into codes of {side} x {side}: their "
                f"sides must be multiples of factor * 2^(levels - 1); choose another factor or fewer levels."
            )


PRESETS: dict[str, VQVAE] = {
    # van den Oord et al. 2017, section 4.1: 32 x 32 images, 8 x 8 codes.
    "vqvae_32": VQVAE(channels=256, res_channels=256),
    # Its public code's example for CIFAR-10.
    "vqvae_32_small": VQVAE(channels=128, res_channels=32),
    # Razavi et al. 2019, table of appendix A: 256 x 256 and 1024 x 1024 images.
    "vqvae2_256": VQVAE(image_shape=(256, 256, 3), levels=2, res_channels=64),
    "vqvae2_1024": VQVAE(image_shape=(1024, 1024, 3), levels=3, factor=8, res_channels=64),
}
