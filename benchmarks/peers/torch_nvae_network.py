"""NVAE's network in torch: our own writing of the architecture, for comparison only.

It computes in the paper's order, as the authors' code does: cells that double the size do it first, where
ours do first what gives the same on the small map. Part of our rows' advantage is that.

Modules are named as the Flax parameters are, with lists of numbered ones; images are `[B, C, H, W]`.
"""

import collections
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vaesr.models.pixel_outputs import output_channels

_ROUNDS = 4  # of the power iteration, each step


class Conv(nn.Module):
    """A convolution that keeps the size; `Network.renew` makes the kernel of its parameters.

    `mask`, `[F, C, K, K]`, is of what there is of the kernel.
    """

    def __init__(
        self, inputs: int, outputs: int, side: int, stride: int = 1, *, bias: bool = True,
        normed: bool = True, depthwise: bool = False, mask: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stride, self.edge, self.groups = stride, side // 2, inputs if depthwise else 1
        self.weight = nn.Parameter(torch.empty(outputs, inputs // self.groups, side, side))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.log_length = nn.Parameter(torch.empty(outputs)) if normed else None
        self.register_buffer("mask", mask)
        self.kernel: Any = None

    def matrix(self) -> Any:
        """The parameters as `[F, C * K * K]`."""
        return (self.weight if self.mask is None else self.weight * self.mask).flatten(1)

    def forward(self, x: Any) -> Any:
        return F.conv2d(x, self.kernel, self.bias, self.stride, self.edge, groups=self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=0.05)


class SqueezeExcite(nn.Module):
    """The factor of each channel, `[B, C, 1, 1]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 4)
        self.dense = nn.ModuleList([nn.Linear(channels, hidden), nn.Linear(hidden, channels)])

    def forward(self, x: Any) -> Any:
        squeezed = torch.relu(self.dense[0](x.mean((2, 3))))
        return torch.sigmoid(self.dense[1](squeezed))[:, :, None, None]


class EncoderCell(nn.Module):
    """Two 3x3 convolutions behind BN and Swish; `down` halves the size."""

    def __init__(self, inputs: int, outputs: int, *, down: bool = False) -> None:
        super().__init__()
        self.norm = nn.ModuleList([_norm(inputs), _norm(outputs)])
        self.conv = nn.ModuleList([Conv(inputs, outputs, 3, 2 if down else 1), Conv(outputs, outputs, 3)])
        self.se = SqueezeExcite(outputs)
        part = outputs // 4
        sizes = (part, part, part, outputs - 3 * part) if down else ()
        self.skip = nn.ModuleList(Conv(inputs, size, 1) for size in sizes)

    def forward(self, x: Any) -> Any:
        y = x
        for norm, conv in zip(self.norm, self.conv, strict=True):
            y = conv(F.silu(norm(y)))
        if self.skip:
            x = F.silu(x)
            corners = ((0, 0), (1, 1), (0, 1), (1, 0))
            parts = [conv(x[:, :, i::2, j::2]) for conv, (i, j) in zip(self.skip, corners, strict=True)]
            x = torch.cat(parts, 1)
        return torch.addcmul(x, y, self.se(y), value=0.1)


class DecoderCell(nn.Module):
    """Widened, convolved channel by channel and narrowed; `up` doubles the size."""

    def __init__(self, inputs: int, outputs: int, expansion: int, *, up: bool = False) -> None:
        super().__init__()
        wide = expansion * inputs
        self.norm = nn.ModuleList(map(_norm, (inputs, wide, wide, outputs)))
        self.expand = Conv(inputs, wide, 1, bias=False, normed=False)
        self.spread = Conv(wide, wide, 5, bias=False, normed=False, depthwise=True)
        self.project = Conv(wide, outputs, 1, bias=False, normed=False)
        self.se = SqueezeExcite(outputs)
        self.skip = Conv(inputs, outputs, 1, bias=False) if up else None

    def forward(self, x: Any) -> Any:
        y = self.norm[0](x if self.skip is None else F.interpolate(x, scale_factor=2, mode="nearest"))
        y = F.silu(self.norm[1](self.expand(y)))
        y = F.silu(self.norm[2](self.spread(y)))
        y = self.norm[3](self.project(y))
        if self.skip is not None:
            x = self.skip(_doubled(x))
        return torch.addcmul(x, y, self.se(y), value=0.1)


def _doubled(x: Any) -> Any:
    """Images of twice the size, between the corners' centres."""
    if not (torch.compiler.is_compiling() and torch.is_grad_enabled()):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    # Compiled, its gradient is a sum by index that PyTorch 2.13 reads before it is done.
    height, width = (_taps(side, x) for side in x.shape[2:])
    rows = torch.matmul(height, x.permute(0, 2, 3, 1).flatten(2)).unflatten(2, (x.shape[3], -1))
    return torch.matmul(width, rows).permute(0, 3, 1, 2)


def _taps(side: int, like: Any) -> Any:
    """What each of twice as many positions takes of each, `[2 * side, side]`."""
    at = torch.linspace(0, side - 1, 2 * side, device=like.device)
    return (1.0 - (at[:, None] - torch.arange(side, device=like.device)).abs()).clamp(min=0).to(like.dtype)


class FlowStep(nn.Module):
    """Each latent minus what those before it say, or if `mirrored` those behind it."""

    def __init__(self, features: int, *, mirrored: bool) -> None:
        super().__init__()
        wide, own = 6 * features, torch.arange(features)
        of_wide = own.repeat_interleave(6)

        def mask(side: int, centre: Any) -> Any:
            flat = torch.zeros(*centre.shape, side * side)
            flat[..., : side * side // 2] = 1
            flat[..., side * side // 2] = centre.float()
            return (flat.flip(-1) if mirrored else flat).unflatten(-1, (side, side))

        self.widen = Conv(features, wide, 3, bias=False, mask=mask(3, own < of_wide[:, None]))
        self.spread = Conv(wide, wide, 5, bias=False, depthwise=True, mask=mask(5, torch.ones(wide, 1)))
        self.narrow = Conv(wide, features, 1, mask=mask(1, of_wide <= own[:, None]))

    def forward(self, z: Any) -> Any:
        h = F.elu(self.widen(z))
        return z - self.narrow(F.elu(F.elu(self.spread(h))))


class Network(nn.Module):
    """The network, with random weights, of the sizes of our `NVAE`; images are in [0, 1].

    It gives the decoder's outputs `[B, K, H, W]`, the groups' KL `[B, G]`, nearest to the data first, and the
    kernels of `renew`. Noise is that of `noise`, or None to draw it.
    """

    def __init__(self, model: Any, memory_format: Any) -> None:
        super().__init__()
        self.memory_format, self.padding, self.flows = memory_format, model.padding, model.flows
        self.encoder_cells, self.decoder_cells = model.encoder_cells, model.decoder_cells
        self.groups, self.mixtures, self.bits = model.groups, model.mixtures, model.bits
        self.latent = model.latent_channels
        self.bernoulli = model.likelihood == "bernoulli"
        height, width, colours = model.image_shape
        scales, latent = len(model.groups), self.latent
        widths = [model.channels * 2 ** (model.pre_blocks + i) for i in range(scales)]
        of_group = [w for w, count in zip(widths, model.groups, strict=True) for _ in range(count)]
        from_top = of_group[::-1]
        factor = 2 ** (model.pre_blocks + scales - 1)
        last = model.pre_cells - 1

        self.stem = Conv(colours, model.channels, 3)
        self.pre_process = nn.ModuleList(
            EncoderCell(model.channels * 2**i, model.channels * 2 ** (i + (j == last)), down=j == last)
            for i in range(model.pre_blocks)
            for j in range(model.pre_cells)
        )
        self.encoder = nn.ModuleList(EncoderCell(w, w) for w in of_group for _ in range(model.encoder_cells))
        self.downs = nn.ModuleList(EncoderCell(w, 2 * w, down=True) for w in widths[:-1])
        self.top = Conv(widths[-1], widths[-1], 1)

        sides = [(side + 2 * model.padding) // factor for side in (height, width)]
        self.start = nn.Parameter(torch.empty(widths[-1], *sides))
        self.priors = nn.ModuleList(Conv(w, 2 * latent, 1) for w in from_top[1:])
        self.taps = nn.ModuleList(Conv(w, w, 1) for w in from_top[1:])
        self.posteriors = nn.ModuleList(Conv(w, 2 * latent, 3) for w in from_top)
        self.transforms = nn.ModuleList(
            FlowStep(latent, mirrored=bool(k % 2)) for _ in from_top for k in range(2 * model.flows)
        )
        self.decoder = nn.ModuleList(
            DecoderCell(w, w, 6) for w in from_top[1:] for _ in range(model.decoder_cells)
        )
        self.combiners = nn.ModuleList(Conv(w + latent, w, 1) for w in from_top)
        self.ups = nn.ModuleList(DecoderCell(2 * w, w, 6, up=True) for w in widths[-2::-1])
        self.post_process = nn.ModuleList(
            DecoderCell(model.channels * 2 ** (i + (j == 0)), model.channels * 2**i, 3, up=j == 0)
            for i in reversed(range(model.pre_blocks))
            for j in range(model.pre_cells)
        )
        outputs = output_channels(model.likelihood, colours, mixtures=model.mixtures)
        self.to_image = Conv(model.channels, outputs, 3)
        self.stacks: list[list[Conv]] = []
        self.norms: list[list[nn.BatchNorm2d]] = []

    def renew(self) -> list[Any]:
        """Make the kernels of all convolutions: `[n, F, R]`, those of one shape together."""
        made = []
        for convs in self.stacks:
            stack = torch.stack([conv.matrix() for conv in convs])
            if convs[0].log_length is not None:
                lengths = torch.linalg.vector_norm(stack, dim=2) + 1e-5
                factors = torch.stack([conv.log_length for conv in convs]).exp() / lengths
                stack = stack * factors[:, :, None]
            for conv, kernel in zip(convs, stack.unbind(), strict=True):
                conv.kernel = kernel.view(conv.weight.shape)
            made.append(stack)
        return made

    def group(self, convs: Sequence[Conv], vectors: Mapping[str, Any]) -> None:
        """Put together what is of one shape; `vectors` `[n, F]` are the singular ones, by our shapes."""
        places: dict[str, int] = collections.Counter()
        found = collections.defaultdict(list)
        for conv in convs:
            rows, columns = conv.weight[0].numel(), conv.weight.shape[0]
            shape = f"{rows}x{columns}"
            found[shape, conv.log_length is not None].append((conv, vectors[shape][places[shape]]))
            places[shape] += 1
        for number, pairs in enumerate(found.values()):
            self.stacks.append([conv for conv, _ in pairs])
            self.register_buffer(f"u_{number}", torch.from_numpy(np.stack([u for _, u in pairs])))
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        self.norms = [
            [norm for norm in norms if norm.num_features == channels]
            for channels in sorted({norm.num_features for norm in norms})
        ]

    def spectral_norms(self, stacks: list[Any]) -> Any:
        """The sum of the kernels' largest singular values, by power iteration from where it was."""
        total = 0.0
        for number, stack in enumerate(stacks):
            kept = self.get_buffer(f"u_{number}")
            with torch.no_grad():
                u = kept[:, None]  # [n, 1, F]
                for _ in range(_ROUNDS):
                    v = F.normalize(u @ stack, dim=2, eps=1e-3)
                    u = F.normalize(v @ stack.mT, dim=2, eps=1e-3)
                kept.copy_(u[:, 0])
            total = total + (u @ stack * v).sum()
        return total

    def norm_scales(self) -> Any:
        """The sum of the normalisations' largest scales."""
        return sum(torch.stack([norm.weight for norm in same]).abs().amax(1).sum() for same in self.norms)

    def forward(self, images: Any, noise: Sequence[Any] | None) -> tuple[Any, Any, list[Any]]:
        stacks, edge = self.renew(), self.padding
        features = self._encode(2.0 * F.pad(images, [edge] * 4) - 1.0)
        x, kl = self.descend(features, noise)
        outputs = self.decode(x)
        for conv in itertools.chain.from_iterable(self.stacks):
            conv.kernel = None
        return outputs, kl, stacks

    def _encode(self, x: Any) -> list[Any]:
        # Of grey images the layout cannot be told.
        x = self.stem(x).contiguous(memory_format=self.memory_format)
        for cell in self.pre_process:
            x = cell(x)
        features, cells = [], iter(self.encoder)
        for scale, count in enumerate(self.groups):
            if scale:
                x = self.downs[scale - 1](x)
            for _ in range(count):
                for _ in range(self.encoder_cells):
                    x = next(cells)(x)
                features.append(x)
        features[-1] = F.elu(self.top(F.elu(x)))
        return features

    def decode(self, x: Any) -> Any:
        """The decoder's outputs without the edge, of what `descend` made; the kernels are made already."""
        for cell in self.post_process:
            x = cell(x)
        outputs, edge = self.to_image(F.elu(x)).float(), self.padding
        height, width = outputs.shape[2:]
        return outputs[:, :, edge : height - edge, edge : width - edge]

    def descend(self, features: list[Any] | None, noise: Sequence[Any] | None) -> tuple[Any, Any]:
        """Features, and the groups' KL; without the encoder's features latents are the prior's."""
        count = len(features[0] if features is not None else noise[0])
        x = self.start.expand(count, -1, -1, -1).contiguous(memory_format=self.memory_format)
        cells, kls, group = iter(self.decoder), [], 0
        for scale, groups in enumerate(self.groups[::-1]):
            if scale:
                x = self.ups[scale - 1](x)
            for _ in range(groups):
                if group:
                    for _ in range(self.decoder_cells):
                        x = next(cells)(x)
                    raw_p = self.priors[group - 1](F.elu(x)).float()
                else:
                    # In the layout of the rest, or all that follows would lose it.
                    raw_p = torch.zeros_like(x[:, :1]).expand(-1, 2 * self.latent, -1, -1).float()
                    raw_p = raw_p.contiguous(memory_format=self.memory_format)
                mean_p, scale_p = _bounded(raw_p)
                drawn = torch.randn_like(mean_p) if noise is None else noise[-1 - group]
                if features is None:
                    z = mean_p + scale_p * drawn
                else:
                    tapped = features[-1 - group]
                    if group:
                        tapped = tapped + self.taps[group - 1](x)
                    q = _bounded(raw_p + self.posteriors[group](tapped).float())
                    z, kl = self._draw(group, q, (mean_p, scale_p), drawn)
                    kls.append(kl.sum((1, 2, 3)))
                x = self.combiners[group](torch.cat([x, z.to(x.dtype)], 1))
                group += 1
        return x, torch.stack(kls[::-1], 1) if kls else None

    def _draw(self, group: int, q: tuple[Any, Any], p: tuple[Any, Any], drawn: Any) -> tuple[Any, Any]:
        """z of a group and the KL of each latent."""
        (mean_q, scale_q), (mean_p, scale_p), steps = q, p, 2 * self.flows
        z = mean_q + scale_q * drawn
        if not steps:
            ratio = scale_q / scale_p
            kl = 0.5 * (((mean_q - mean_p) / scale_p).square() + ratio.square()) - 0.5 - ratio.log()
            return z, kl
        for step in self.transforms[group * steps : (group + 1) * steps]:
            z = step(z)
        return z, _log_normal(drawn, scale_q) - _log_normal((z - mean_p) / scale_p, scale_p)


def _bounded(raw: Any) -> tuple[Any, Any]:
    """Means and standard deviations of a group."""
    mean, log_scale = (5.0 * torch.tanh(raw / 5.0)).chunk(2, 1)
    return mean, log_scale.exp() + 0.01


def _log_normal(unit: Any, scale: Any) -> Any:
    return -0.5 * unit.square() - scale.log() - 0.5 * math.log(2 * math.pi)
