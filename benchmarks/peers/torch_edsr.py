"""EDSR in torch: our own writing of the architecture, for comparison only."""

from typing import Any

import numpy as np

_MEAN = (0.4488, 0.4371, 0.4040)


def build(*, scale: int, channels: int, blocks: int, residual_scale: float) -> Any:
    """Make the network, with random weights.

    Args:
        scale: 2 or 3, or 4 as two times 2.
        channels: width of the trunk.
        blocks: residual blocks.
        residual_scale: factor on each residual branch.

    Returns:
        A `torch.nn.Module` that maps RGB `[B, 3, h, w]` in [0, 1] to `[B, 3, h * scale, w * scale]`.
    """
    import torch
    from torch import nn

    def conv(in_channels: int, out_channels: int) -> Any:
        return nn.Conv2d(in_channels, out_channels, 3, padding=1)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_0, self.conv_1 = conv(channels, channels), conv(channels, channels)

        def forward(self, x: Any) -> Any:
            y = self.conv_1(torch.relu_(self.conv_0(x)))
            return x + y if residual_scale == 1.0 else torch.add(x, y, alpha=residual_scale)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = conv(3, channels)
            self.body = nn.ModuleList(Block() for _ in range(blocks))
            self.body_out = conv(channels, channels)
            factors = (3,) if scale == 3 else (2,) * (scale.bit_length() - 1)
            self.up = nn.ModuleList(conv(channels, channels * f * f) for f in factors)
            self.factors = factors
            self.tail = conv(channels, 3)
            self.register_buffer("mean", torch.tensor(_MEAN).reshape(1, 3, 1, 1))

        def forward(self, x: Any) -> Any:
            x = self.head((x - self.mean) * 255.0)
            y = x
            for block in self.body:
                y = block(y)
            x = x + self.body_out(y)
            for up, factor in zip(self.up, self.factors, strict=True):
                x = nn.functional.pixel_shuffle(up(x), factor)
            return self.tail(x).float() / 255.0 + self.mean

    return Network()


def load_params(model: Any, params: dict[str, Any]) -> None:
    """Copy our parameters into the network.

    Args:
        model: from `build`, of the same sizes.
        params: the tree of `vaesr.models.EDSR` with unrolled blocks.
    """
    trunk = params["trunk"]
    _copy(model.head, params["head"])
    for i, block in enumerate(model.body):
        _copy(block.conv_0, trunk[f"body_{i}"]["conv_0"])
        _copy(block.conv_1, trunk[f"body_{i}"]["conv_1"])
    _copy(model.body_out, trunk["body_out"])
    for i, up in enumerate(model.up):
        _copy(up, params["upsampler"][f"conv_{i}"])
    _copy(model.tail, params["tail"])


def _copy(conv: Any, params: dict[str, Any]) -> None:
    """One layer: kernels go from height, width, in, out to out, in, height, width."""
    import torch

    kernel = np.array(params["kernel"]).transpose(3, 2, 0, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
        conv.bias.copy_(torch.from_numpy(np.array(params["bias"])))
