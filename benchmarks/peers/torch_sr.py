"""EDSR, RCAN, SRResNet, MSRResNet, RRDBNet, SRVGGNetCompact and discriminators in torch, to compare with.

Our own writing of the architectures. Modules are named as the Flax parameters are, so that one function
copies any of them; images are `[B, 3, H, W]` in [0, 1].
"""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flax.traverse_util import flatten_dict
from torch import nn

from benchmarks.peers import torch_common
from vaesr.imaging.colour import DIV2K_MEAN, IMAGENET_DEVIATION, IMAGENET_MEAN


def conv(inputs: int, outputs: int, side: int = 3, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A convolution with the usual padding."""
    return nn.Conv2d(inputs, outputs, side, stride, (side - 1) // 2, bias=bias)


class Network(nn.Module):
    """Layers by name, called in the order of `forward` of its subclasses."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


def pair(channels: int) -> Network:
    """The two convolutions of a residual block."""
    block = Network()
    block.conv_0, block.conv_1 = conv(channels, channels), conv(channels, channels)
    return block


class Upsampler(Network):
    """A convolution and a pixel shuffle, by 3 for a scale of 3, else one for each doubling."""

    def __init__(self, scale: int, channels: int) -> None:
        super().__init__()
        self.factors = (3,) if scale == 3 else (2,) * (scale.bit_length() - 1)
        for i, factor in enumerate(self.factors):
            self.add_module(f"conv_{i}", conv(channels, channels * factor**2))

    def forward(self, x: Any) -> Any:
        for i, factor in enumerate(self.factors):
            x = F.pixel_shuffle(self[f"conv_{i}"](x), factor)
        return x


class EDSR(Network):
    """EDSR for a scale of 2, 3, or 4 as two times 2."""

    def __init__(self, scale: int, channels: int, blocks: int, residual_scale: float) -> None:
        super().__init__()
        self.blocks, self.residual_scale = blocks, residual_scale
        self.head, self.tail = conv(3, channels), conv(channels, 3)
        self.trunk, self.upsampler = Network(), Upsampler(scale, channels)
        for i in range(blocks):
            self.trunk.add_module(f"body_{i}", pair(channels))
        self.trunk.body_out = conv(channels, channels)
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).reshape(1, 3, 1, 1))

    def forward(self, x: Any) -> Any:
        x = y = self.head((x - self.mean) * 255.0)
        for i in range(self.blocks):
            block = self.trunk[f"body_{i}"]
            z = block.conv_1(torch.relu_(block.conv_0(y)))
            y = y + z if self.residual_scale == 1.0 else torch.add(y, z, alpha=self.residual_scale)
        x = self.upsampler(x + self.trunk.body_out(y))
        return self.tail(x).float() / 255.0 + self.mean


class RCAN(Network):
    """RCAN for a scale of 2, 3 or 4."""

    def __init__(self, scale: int, channels: int, groups: int, blocks: int, reduction: int) -> None:
        super().__init__()
        c = channels
        self.head, self.body_out, self.tail = conv(3, c), conv(c, c), conv(c, 3)
        self.groups, self.upsampler = groups, Upsampler(scale, c)
        for i in range(groups):
            group = Network()
            group.blocks = blocks
            for j in range(blocks):
                block = pair(c)
                block.attend_down, block.attend_up = conv(c, c // reduction, 1), conv(c // reduction, c, 1)
                group.add_module(f"block_{j}", block)
            group.out = conv(c, c)
            self.add_module(f"group_{i}", group)
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).reshape(1, 3, 1, 1))

    def forward(self, x: Any) -> Any:
        x = first = self.head((x - self.mean) * 255)
        for i in range(self.groups):
            group, y = self[f"group_{i}"], x
            for j in range(group.blocks):
                block = group[f"block_{j}"]
                z = block.conv_1(torch.relu(block.conv_0(y)))
                a = torch.relu(block.attend_down(z.mean((2, 3), keepdim=True)))
                y = y + z * torch.sigmoid(block.attend_up(a))
            x = x + group.out(y)
        return self.tail(self.upsampler(first + self.body_out(x))) / 255 + self.mean


class SRResNet(Network):
    """SRGAN's generator for a scale of 2 or 4."""

    def __init__(self, scale: int, channels: int, blocks: int) -> None:
        super().__init__()
        c = channels
        self.blocks, self.ups = blocks, scale // 2
        self.head, self.head_prelu, self.tail = conv(3, c, 9), nn.PReLU(), conv(c, 3, 9)
        for i in range(blocks):
            for j in (0, 1):
                self.add_module(f"body_{i}_conv_{j}", conv(c, c))
                self.add_module(f"body_{i}_norm_{j}", nn.BatchNorm2d(c))
            self.add_module(f"body_{i}_prelu", nn.PReLU())
        self.body_out, self.body_out_norm = conv(c, c), nn.BatchNorm2d(c)
        for i in range(self.ups):
            self.add_module(f"up_{i}", conv(c, 4 * c))
            self.add_module(f"up_{i}_prelu", nn.PReLU())

    def forward(self, x: Any) -> Any:
        x = first = self.head_prelu(self.head(x))
        for i in range(self.blocks):
            y = self[f"body_{i}_norm_0"](self[f"body_{i}_conv_0"](x))
            y = self[f"body_{i}_conv_1"](self[f"body_{i}_prelu"](y))
            x = x + self[f"body_{i}_norm_1"](y)
        x = first + self.body_out_norm(self.body_out(x))
        for i in range(self.ups):
            x = self[f"up_{i}_prelu"](F.pixel_shuffle(self[f"up_{i}"](x), 2))
        return (self.tail(x) + 1) / 2


class MSRResNet(Network):
    """BasicSR's SRResNet for a scale of 2 or 4."""

    def __init__(self, scale: int, channels: int, blocks: int) -> None:
        super().__init__()
        c = channels
        self.scale, self.blocks = scale, blocks
        self.conv_first, self.conv_hr, self.conv_last = conv(3, c), conv(c, c), conv(c, 3)
        for i in range(blocks):
            self.add_module(f"body_{i}", pair(c))
        for i in range(scale // 2):
            self.add_module(f"upconv_{i}", conv(c, 4 * c))

    def forward(self, image: Any) -> Any:
        x = F.leaky_relu(self.conv_first(image), 0.1)
        for i in range(self.blocks):
            block = self[f"body_{i}"]
            x = x + block.conv_1(torch.relu(block.conv_0(x)))
        for i in range(self.scale // 2):
            x = F.leaky_relu(F.pixel_shuffle(self[f"upconv_{i}"](x), 2), 0.1)
        x = self.conv_last(F.leaky_relu(self.conv_hr(x), 0.1))
        return x + F.interpolate(image, scale_factor=self.scale, mode="bilinear", align_corners=False)


class RRDBNet(Network):
    """ESRGAN's generator for a scale of 1, 2 or 4; `growth` is the outputs of a dense convolution."""

    def __init__(self, scale: int, channels: int, growth: int, blocks: int) -> None:
        super().__init__()
        c, self.blocks, self.down = channels, blocks, 4 // scale
        self.conv_first = conv(3 * self.down**2, c)
        for i in range(blocks):
            outer = Network()
            for j in (1, 2, 3):
                inner = Network()
                for k in range(1, 6):
                    inner.add_module(f"conv{k}", conv(c + (k - 1) * growth, growth if k < 5 else c))
                outer.add_module(f"rdb{j}", inner)
            self.add_module(f"body_{i}", outer)
        for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
            self.add_module(name, conv(c, c))
        self.conv_last = conv(c, 3)

    def forward(self, x: Any) -> Any:
        x = first = self.conv_first(F.pixel_unshuffle(x, self.down) if self.down > 1 else x)
        for i in range(self.blocks):
            y = x
            for j in (1, 2, 3):
                inner, found = self[f"body_{i}"][f"rdb{j}"], [y]
                for k in range(1, 5):
                    found.append(F.leaky_relu(inner[f"conv{k}"](torch.cat(found, 1)), 0.2))
                y = y + 0.2 * inner.conv5(torch.cat(found, 1))
            x = x + 0.2 * y
        x = first + self.conv_body(x)
        for name in ("conv_up1", "conv_up2"):
            x = F.leaky_relu(self[name](F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))


class SRVGGNetCompact(Network):
    """Real-ESRGAN's compact network for any scale; `convs` stand between the first and the last."""

    def __init__(self, scale: int, channels: int, convs: int) -> None:
        super().__init__()
        self.scale, self.convs = scale, convs
        for i in range(convs + 1):
            self.add_module(f"conv_{i}", conv(channels if i else 3, channels))
            self.add_module(f"prelu_{i}", nn.PReLU(channels))
        self.add_module(f"conv_{convs + 1}", conv(channels, 3 * scale**2))

    def forward(self, image: Any) -> Any:
        x = image
        for i in range(self.convs + 1):
            x = self[f"prelu_{i}"](self[f"conv_{i}"](x))
        x = F.pixel_shuffle(self[f"conv_{self.convs + 1}"](x), self.scale)
        return x + F.interpolate(image, scale_factor=self.scale, mode="nearest")


class SRGANDiscriminator(Network):
    """SRGAN's discriminator of `stages` pairs of convolutions; `side` is of the images."""

    def __init__(self, channels: int, hidden: int, stages: int, side: int) -> None:
        super().__init__()
        self.stages, before = stages, 3
        for i in range(2 * stages):
            width = channels * 2 ** min(i // 2, 3)
            self.add_module(f"conv_{i}", conv(before, width, 3, 1 + i % 2))
            if i:
                self.add_module(f"norm_{i}", nn.BatchNorm2d(width))
            before = width
        self.dense_0 = nn.Linear(before * (side // 2**stages) ** 2, hidden)
        self.dense_1 = nn.Linear(hidden, 1)

    def forward(self, x: Any) -> Any:
        x = x * 2 - 1
        for i in range(2 * self.stages):
            x = self[f"conv_{i}"](x)
            x = F.leaky_relu(self[f"norm_{i}"](x) if i else x, 0.2)
        return self.dense_1(F.leaky_relu(self.dense_0(x.permute(0, 2, 3, 1).flatten(1)), 0.2))


class VGGDiscriminator(Network):
    """ESRGAN's discriminator of `stages` pairs of convolutions, the first with so many channels."""

    def __init__(self, channels: int, hidden: int, stages: int) -> None:
        super().__init__()
        self.stages, before = stages, 3
        for i in range(stages):
            width = channels * 2 ** min(i, 3)
            self.add_module(f"conv{i}_0", conv(before, width, bias=i == 0))
            if i:
                self.add_module(f"bn{i}_0", nn.BatchNorm2d(width))
            self.add_module(f"conv{i}_1", conv(width, width, 4, 2, bias=False))
            self.add_module(f"bn{i}_1", nn.BatchNorm2d(width))
            before = width
        self.linear1, self.linear2 = nn.Linear(before * 16, hidden), nn.Linear(hidden, 1)

    def forward(self, x: Any) -> Any:
        for i in range(self.stages):
            x = self[f"conv{i}_0"](x)
            x = F.leaky_relu(self[f"bn{i}_0"](x) if i else x, 0.2)
            x = F.leaky_relu(self[f"bn{i}_1"](self[f"conv{i}_1"](x)), 0.2)
        return self.linear2(F.leaky_relu(self.linear1(x.permute(0, 2, 3, 1).flatten(1)), 0.2))


class UNetDiscriminator(Network):
    """Real-ESRGAN's discriminator, the first convolution of so many channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.conv0, self.conv9 = conv(3, c), conv(c, 1)
        pairs = {1: (1, 2), 2: (2, 4), 3: (4, 8), 4: (8, 4), 5: (4, 2), 6: (2, 1), 7: (1, 1), 8: (1, 1)}
        for i, (before, after) in pairs.items():
            side, stride = (4, 2) if i < 4 else (3, 1)
            layer = conv(before * c, after * c, side, stride, bias=False)
            self.add_module(f"conv{i}", nn.utils.spectral_norm(layer))

    def forward(self, x: Any) -> Any:
        levels = [F.leaky_relu(self.conv0(x), 0.2)]
        for i in (1, 2, 3):
            levels.append(F.leaky_relu(self[f"conv{i}"](levels[-1]), 0.2))
        x = levels[3]
        for i, skip in ((4, levels[2]), (5, levels[1]), (6, levels[0])):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.leaky_relu(self[f"conv{i}"](x), 0.2) + skip
        x = F.leaky_relu(self.conv7(x), 0.2)
        return self.conv9(F.leaky_relu(self.conv8(x), 0.2))


class VGG(Network):
    """VGG's convolutions up to the one named `last`, as "conv5_4", its result before the ReLU."""

    def __init__(
        self, depths: tuple[int, ...], last: str, widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    ) -> None:
        super().__init__()
        names = [f"conv{s}_{i}" for s, depth in enumerate(depths, 1) for i in range(1, depth + 1)]
        self.names, before = names[: names.index(last) + 1], 3
        for name in self.names:
            width = widths[int(name[4]) - 1]
            self.add_module(name, conv(before, width))
            before = width
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(shape))
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION).reshape(shape))

    def forward(self, x: Any) -> Any:
        x = (x - self.mean) / self.deviation
        for i, name in enumerate(self.names):
            if i:
                x = torch.relu(x)
                x = F.max_pool2d(x, 2) if name[4] != self.names[i - 1][4] else x
            x = self[name](x)
        return x


def counterpart(model: Any, **given: Any) -> Any:
    """The network of this file that is called like one of ours, with its sizes and random weights.

    `given` is what ours has no field of.
    """
    kind = getattr(sys.modules[__name__], type(model).__name__)
    wanted = inspect.signature(kind).parameters
    return kind(**{name: getattr(model, name) for name in wanted if name not in given}, **given)


def output(training: Any) -> Any:
    """What our upscaler makes of the batch: `[B, H, W, 3]`."""
    return training.run.apply(training.batch["x_lr"])


def pixel_trainer(
    training: Any, how: torch_common.How, loss: Callable[[Any, Any], Any]
) -> torch_common.Trainer:
    """The loop of an upscaler alone, whose `loss` is of `x_sr` and `x_hr`."""
    network = load(counterpart(training.run.model), torch_common.host(training.run.collections["params"]))
    x_lr, x_hr = (torch_common.images(training.batch[name], how) for name in ("x_lr", "x_hr"))
    return torch_common.Trainer(
        torch_common.place(network, how), lambda net: loss(net(x_lr).float(), x_hr), how=how,
        learning_rate=training.config.optim.lr, output=lambda net: upscaled(net, x_lr),
    )  # fmt: skip


def upscaled(network: Any, x_lr: Any) -> np.ndarray:
    """What an upscaler makes of images `[B, 3, h, w]`: `[B, H, W, 3]`; batch statistics stay."""
    network.eval()
    image = network(x_lr).cpu().numpy().transpose(0, 2, 3, 1)
    network.train()
    return image


def load(network: Any, params: Any) -> Any:
    """Copy a tree of Flax's host arrays into a network of this file, whose modules have the same names."""
    theirs = dict(network.named_parameters())
    left = set(theirs)
    for key, array in flatten(params).items():
        if key.endswith(".weight"):  # kernels; of vectors it changes nothing
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        key = key if key in theirs else f"{key}_orig"  # under spectral normalisation
        with torch.no_grad():
            theirs[key].copy_(torch.from_numpy(np.array(array, order="C")).reshape(theirs[key].shape))
        left.discard(key)
    if left:
        raise ValueError(f"nothing was given for {sorted(left)}")
    return network


def read_gradients(network: Any) -> dict[str, np.ndarray]:
    """The gradients of a network of this file after `backward`, in Flax's layout by dotted name."""
    found = {}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            array = parameter.grad.cpu().numpy()
            found[name] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return found


def flatten(params: Any) -> dict[str, np.ndarray]:
    """Flax parameters or gradients by the names of `read_gradients`."""
    found = {}
    for (*modules, leaf), array in flatten_dict(params).items():
        kind = "bias" if leaf == "bias" else "weight"
        found[".".join([*(name for name in modules if name != "norm"), kind])] = np.asarray(array)
    return found
