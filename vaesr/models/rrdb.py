"""RRDBNet, the generator of ESRGAN (Wang et al., ECCVW 2018) and Real-ESRGAN (Wang et al., ICCVW 2021)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.imaging import pixel_unshuffle, upsample_nearest
from vaesr.imaging.tiles import mirror_to_multiple
from vaesr.layers import Conv, ConvForm, Precision, check_rgb
from vaesr.models import PlainRestorer

_RESIDUAL_SCALE = 0.2


class RRDBNet(PlainRestorer, nn.Module):
    """Residual-in-residual dense blocks without batch norm, then doublings by nearest neighbour.

    The parameters are named as in BasicSR: `conv_first`, `body_0/rdb1/conv1`, ..., `conv_body`, `conv_up1`,
    `conv_up2`, `conv_hr`, `conv_last`.

    Attributes:
        scale: upscaling factor: 4, 2 or 1; without `unshuffle` any power of two up to 16.
        channels: width of the trunk; 64 in the paper.
        growth: outputs of each dense convolution; 32 in the paper.
        blocks: residual-in-residual dense blocks; 23 in the paper.
        unshuffle: scales 2 and 1 first move 2x2 and 4x4 pixels into channels, and double twice all the same
            (BasicSR, Real-ESRGAN). Without it they double once and never, as ESRGAN's first code does.
        dtype: compute type; parameters and output are float32.
        remat: recompute each block in the backward pass: less memory, a third more work.
        loop: compute the blocks in a loop over their stacked parameters in place of unrolling them, which is
            compiled in a fraction of the time; the parameters keep their names. For networks in use.
        conv_form: how the platform computes convolutions, see `vaesr.layers.conv2d`.
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.
    """

    scale: int = 4
    channels: int = 64
    growth: int = 32
    blocks: int = 23
    unshuffle: bool = True
    dtype: Any = jnp.float32
    remat: bool = False
    loop: bool = False
    conv_form: ConvForm = "auto"
    precision: Precision = "default"

    @property
    def input_multiple(self) -> int:
        """The input is cut into squares of so many pixels: tiles must begin at their corners."""
        return 4 // self.scale if self.unshuffle else 1

    @property
    def doublings(self) -> int:
        """How often the size doubles at the end."""
        return 2 if self.unshuffle else self.scale.bit_length() - 1

    @property
    def receptive_radius(self) -> int:
        """How many low-resolution pixels around an input pixel can change what it becomes.

        15 a block and two more convolutions, and those after the doublings, which reach two more however
        many there are; times the side of the squares that scales 1 and 2 move into channels.
        """
        return (15 * self.blocks + 4) * self.input_multiple

    @nn.compact
    def __call__(self, x_lr: jax.Array) -> jax.Array:
        """Upscale a batch of images.

        Args:
            x_lr: RGB `[B, h, w, 3]` in [0, 1]. Sizes that are no multiple of `input_multiple` are mirrored
                at the bottom and the right, and the result is cut.

        Returns:
            float32 `[B, h * scale, w * scale, 3]` in about [0, 1], not clipped.

        Raises:
            ValueError: if `x_lr` is no batch of RGB images or there is no network of this scale.
        """
        check_rgb(x_lr)
        if self.scale not in ((1, 2, 4) if self.unshuffle else (1, 2, 4, 8, 16)):
            raise ValueError(f"scale is {self.scale}; RRDBNet has 1, 2 or 4, and 8 and 16 without unshuffle.")
        conv = {"dtype": self.dtype, "form": self.conv_form, "precision": self.precision}
        _, height, width, _ = x_lr.shape
        x_lr = mirror_to_multiple(x_lr, self.input_multiple)
        block = nn.remat(_RRDB) if self.remat else _RRDB
        first = Conv(self.channels, name="conv_first", **conv)(pixel_unshuffle(x_lr, self.input_multiple))
        x = first
        if self.loop:
            alone: Any = block(self.channels, self.growth, parent=None, **conv)
            if self.is_initializing():  # all at once, too; what comes after sees images of the same shape
                keys = jax.random.split(self.make_rng("params"), self.blocks)
                starts = jax.vmap(lambda key: alone.init(key, x)["params"])(keys)
                for i in range(self.blocks):
                    own = partial(jax.lax.index_in_dim, index=i, keepdims=False)
                    self.param(f"body_{i}", lambda _, own=own: jax.tree.map(own, starts))
            else:
                params = [self.variables["params"][f"body_{i}"] for i in range(self.blocks)]
                stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
                x, _ = jax.lax.scan(lambda x, own: (alone.apply({"params": own}, x), None), x, stacked)
        else:
            for i in range(self.blocks):
                x = block(self.channels, self.growth, name=f"body_{i}", **conv)(x)
        x = first + Conv(self.channels, name="conv_body", **conv)(x)
        for i in range(self.doublings):
            x = _leaky(Conv(self.channels, name=f"conv_up{i + 1}", **conv)(upsample_nearest(x, 2)))
        x = _leaky(Conv(self.channels, name="conv_hr", **conv)(x))
        x = Conv(3, name="conv_last", **conv)(x)
        return x[:, : height * self.scale, : width * self.scale].astype(jnp.float32)


class _RRDB(nn.Module):
    """Three dense blocks, times 0.2, plus the input (figure 4)."""

    channels: int
    growth: int
    dtype: Any
    form: str
    precision: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fields = {"dtype": self.dtype, "form": self.form, "precision": self.precision}
        y = x
        for i in (1, 2, 3):
            y = _DenseBlock(self.channels, self.growth, name=f"rdb{i}", **fields)(y)
        return x + y * _RESIDUAL_SCALE


class _DenseBlock(nn.Module):
    """Five convolutions, each of all that came before; times 0.2, plus the input."""

    channels: int
    growth: int
    dtype: Any
    form: str
    precision: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fields = {"dtype": self.dtype, "form": self.form, "precision": self.precision}
        # Small weights at first, or 69 blocks in a row explode: Kaiming times 0.1, section 3.1.
        small = nn.initializers.variance_scaling(2.0 * 0.1**2, "fan_in", "normal")
        fields |= {"kernel_init": small, "bias_init": nn.initializers.zeros}
        x = x.astype(self.dtype)
        found = [x]
        for i in range(1, 5):
            y = Conv(self.growth, name=f"conv{i}", **fields)(jnp.concatenate(found, axis=-1))
            found.append(_leaky(y))
        y = Conv(self.channels, name="conv5", **fields)(jnp.concatenate(found, axis=-1))
        return x + y * _RESIDUAL_SCALE


def _leaky(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, negative_slope=0.2)


# Parameter counts: 16,697,987, 16,703,171, 16,723,907 and 4,467,779.
PRESETS: dict[str, RRDBNet] = {
    "paper_x4": RRDBNet(),
    "paper_x2": RRDBNet(scale=2),
    "paper_x1": RRDBNet(scale=1),
    "anime_x4": RRDBNet(blocks=6),
}
