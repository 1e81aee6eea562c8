"""Residual blocks without normalisation, and the trunk that repeats them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.layers.conv import Conv


class ResBlock(nn.Module):
    """conv, ReLU, conv, times `residual_scale`, plus the input (EDSR figure 2c; no batch norm).

    Attributes:
        channels: input and output channels.
        kernel_size: odd side of both kernels.
        residual_scale: factor on the residual branch.
        dtype: compute type.
        form: see `vaesr.layers.conv2d`.
        precision: see `vaesr.layers.conv2d`.
    """

    channels: int
    kernel_size: int = 3
    residual_scale: float = 1.0
    dtype: Any = jnp.float32
    form: str = "auto"
    precision: str = "default"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, channels]` to the same shape."""
        conv = {"dtype": self.dtype, "form": self.form, "precision": self.precision}
        y = nn.relu(Conv(self.channels, self.kernel_size, name="conv_0", **conv)(x))
        y = Conv(self.channels, self.kernel_size, name="conv_1", **conv)(y)
        return x + (y if self.residual_scale == 1.0 else y * self.residual_scale)


class _ScanBlock(ResBlock):
    """`ResBlock` with the (carry, output) signature of `nn.scan`."""

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:  # type: ignore[override]
        return ResBlock.__call__(self, x), None


class Trunk(nn.Module):
    """`blocks` residual blocks, one 3x3 convolution and the long skip.

    Attributes:
        channels: channels throughout.
        blocks: how many residual blocks.
        residual_scale: factor on each block's residual branch.
        dtype: compute type.
        remat: recompute each block's activations in the backward pass.
        scan: one compiled block under `lax.scan`, with the parameters of all blocks stacked under
            `body` (see `stack_blocks`), in place of `body_0`, `body_1`, ...
        form: see `vaesr.layers.conv2d`; `auto` becomes `loop` in scanned blocks.
        precision: see `vaesr.layers.conv2d`.
    """

    channels: int
    blocks: int
    residual_scale: float = 1.0
    dtype: Any = jnp.float32
    remat: bool = False
    scan: bool = False
    form: str = "auto"
    precision: str = "default"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, channels]` to the same shape."""
        conv = {"dtype": self.dtype, "form": self.form, "precision": self.precision}
        fields = {"channels": self.channels, "residual_scale": self.residual_scale, **conv}
        y = x
        if self.scan:
            fields["form"] = "loop" if self.form == "auto" else self.form
            block: Any = nn.remat(_ScanBlock, prevent_cse=False) if self.remat else _ScanBlock
            scanned = nn.scan(
                block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.blocks
            )
            y, _ = scanned(name="body", **fields)(y, None)
        else:
            block = nn.remat(ResBlock) if self.remat else ResBlock
            for i in range(self.blocks):
                y = block(name=f"body_{i}", **fields)(y)
        return x + Conv(self.channels, name="body_out", **conv)(y)


def stack_blocks(params: dict[str, Any]) -> dict[str, Any]:
    """Turn a trunk's unrolled parameters (`body_0`, `body_1`, ...) into those of `scan=True` (`body`).

    Args:
        params: a tree that somewhere holds siblings named `body_0`, `body_1`, ...

    Returns:
        The same tree with these siblings stacked along a new first axis under `body`.
    """
    names = sorted((n for n in params if n.startswith("body_") and n[5:].isdigit()), key=lambda n: int(n[5:]))
    rest = {n: stack_blocks(v) if isinstance(v, dict) else v for n, v in params.items() if n not in names}
    if names:
        rest["body"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[n] for n in names))
    return rest


def unstack_blocks(params: dict[str, Any]) -> dict[str, Any]:
    """Undo `stack_blocks`.

    Args:
        params: a tree that somewhere holds stacked blocks under `body`.

    Returns:
        The same tree with the blocks under `body_0`, `body_1`, ...
    """
    rest = {n: unstack_blocks(v) if isinstance(v, dict) else v for n, v in params.items() if n != "body"}
    if "body" in params:
        for i in range(jax.tree.leaves(params["body"])[0].shape[0]):
            rest[f"body_{i}"] = jax.tree.map(lambda leaf, i=i: leaf[i], params["body"])
    return rest
