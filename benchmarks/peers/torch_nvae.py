"""NVAE's training step and sampling in torch: our own writing of the architecture, for comparison only.

It computes in the paper's order, as the authors' code does: cells that double the size do it first, where
ours do first what gives the same on the small map. Part of our rows' advantage is that.

Modules are named as the Flax parameters are, with lists of numbered ones; images are `[B, C, H, W]`.
"""

import collections
import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax.traverse_util import flatten_dict
from torch import nn

from benchmarks.peers import torch_common
from experiments import nvae
from vaesr import objectives
from vaesr.distributions import example_keys, example_normal
from vaesr.models.pixel_outputs import output_channels
from vaesr.training.optim import make_schedule

LAYOUTS = torch_common.IMAGE_LAYOUTS
_ROUNDS = 4  # of the power iteration, each step


def output(training: Any) -> Any:
    """What the decoder makes of the first step's noise, by the batch's statistics; see `benchmarks.peers`."""
    images, keys = training.batch["image"], _keys(training, 0)
    return training.run.apply(images, keys, jnp.arange(1), method="forward", train=True)[0]


def trainer(training: Any, how: torch_common.How) -> torch_common.Trainer | None:
    """See `benchmarks.peers`; None for other likelihoods, and for pixels that are drawn."""
    likelihood, binarisation = training.run.model.likelihood, training.config.objective.binarisation
    known = likelihood == "logistic_mixture" or (likelihood, binarisation) == ("bernoulli", "none")
    return Trainer(training, how) if known else None


def sampler(training: Any, how: torch_common.How, batch: int) -> torch_common.Sampler | None:
    """See `benchmarks.peers`; None for other likelihoods. Its kernels are made once, before it draws."""
    model = training.run.model
    if model.likelihood != "bernoulli":
        return None
    network = torch_common.place(load(Network(model, how.memory_format), training.run.collections), how)
    network.eval()
    with torch.no_grad():
        network.renew()
        for module in network.modules():
            if isinstance(module, Conv) and how.bfloat16:  # once, and not in every draw
                module.kernel = module.kernel.to(torch.bfloat16, memory_format=how.memory_format)
    shapes = [(batch, shape[2], *shape[:2]) for shape in model.latent_shapes]
    device = torch_common.device()

    def turn(noise: np.ndarray) -> list[Any]:
        parts = np.split(noise, np.cumsum(model.latents)[:-1], axis=1)
        shaped = zip(parts, model.latent_shapes, strict=True)
        return [torch_common.images(part.reshape(batch, *shape), how) for part, shape in shaped]

    def draw(noise: Any) -> Any:
        if noise is None:
            drawn = (torch.randn(shape, device=device) for shape in shapes)
            noise = [normal.contiguous(memory_format=how.memory_format) for normal in drawn]
        return torch.sigmoid(network.decode(network.descend(None, noise)[0]))

    return torch_common.Sampler(draw, how=how, turn=turn)


class Trainer(torch_common.Trainer):
    """The loop with Adamax, whose rate and the weights of the loss change from step to step."""

    def __init__(self, training: Any, how: torch_common.How) -> None:
        config, optim, device = training.config, training.config.optim, torch_common.device()
        network = load(Network(training.run.model, how.memory_format), training.run.collections)
        images = torch_common.images(training.batch["image"], how)
        # Tensors, so that one compiled program serves all steps.
        self.weights = torch.zeros(2, device=device)
        feed = (noise(training, step, how) for step in itertools.count())
        draw = (lambda: next(feed)) if how.exact else (lambda: None)
        balance = torch.tensor(config.model.balance, device=device) if config.objective.balance else None

        super().__init__(
            torch_common.place(network, how),
            lambda net: loss_of(net, images, draw(), self.weights, balance), how=how, learning_rate=optim.lr,
            output=lambda net: net(images, noise(training, 0, how))[0].cpu().numpy().transpose(0, 2, 3, 1),
            ema_decay=training.experiment.ema_decay,
        )  # fmt: skip
        self.optimizer = torch.optim.Adamax(
            network.parameters(), lr=optim.lr, betas=(optim.b1, optim.b2), eps=optim.eps,
            weight_decay=optim.l2, foreach=True,
        )  # fmt: skip
        kinds = (
            make_schedule(optim, steps=config.steps),
            functools.partial(nvae.kl_weight, config),
            functools.partial(nvae.spectral_weight, config),
        )
        # What changes from step to step, of every step.
        self.rates, *weights = (
            np.array(jax.vmap(lambda step, kind=kind: jnp.float32(kind(step)))(jnp.arange(config.steps)))
            for kind in kinds
        )
        self.all_weights = torch.from_numpy(np.stack(weights, 1)).to(device)
        self.taken = 0

    def step(self) -> Any:
        """Take one training step, and return the loss, a tensor."""
        now = min(self.taken, len(self.rates) - 1)
        self.weights.copy_(self.all_weights[now])
        self.optimizer.param_groups[0]["lr"] = float(self.rates[now])
        self.taken += 1
        return super().step()


# --- noise -------------------------------------------------------------------------------------------------


def _keys(training: Any, step: int) -> jax.Array:
    """The keys of the examples' latents in a step of ours."""
    key = jax.random.fold_in(jax.random.fold_in(training.state.key, step), 0)
    return example_keys(jax.random.fold_in(key, 0), jnp.arange(len(training.batch["image"])))


def noise(training: Any, step: int, how: torch_common.How) -> list[Any]:
    """What a step of ours draws: `[B, latent_channels, h, w]` of each group, nearest to the data first."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    keys, shapes = fold(_keys(training, step), 0), training.run.model.latent_shapes
    return [
        torch_common.images(example_normal(fold(keys, group), shape), how)
        for group, shape in enumerate(shapes)
    ]


# --- the network -------------------------------------------------------------------------------------------


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


# --- the loss ----------------------------------------------------------------------------------------------


def loss_of(network: Any, images: Any, noise: Any, weights: Any, balance: Any) -> Any:
    """The negative ELBO, nats per example, and the regularisation; `weights` are of the KL and of the latter.

    `balance` is our model's, or None.
    """
    beta, of_norms = weights
    outputs, kl, stacks = network(images, noise)
    if network.bernoulli:
        nll = F.binary_cross_entropy_with_logits(outputs, images, reduction="sum")
    else:
        nll = mixture_nll(outputs, images, mixtures=network.mixtures, bits=network.bits)
    cost = kl.sum(0)
    if balance is not None:
        shares = (kl.detach().abs().mean(0) + 0.01) / balance
        cost = cost * torch.where(beta < 1, shares / shares.mean(), 1.0)
    with torch.autocast(torch_common.device().type, enabled=False):
        regularised = network.spectral_norms(stacks) + network.norm_scales()
    return (nll + beta * cost.sum()) / len(images) + of_norms * regularised


def mixture_nll(outputs: Any, images: Any, *, mixtures: int, bits: int) -> Any:
    """Of a batch under PixelCNN++'s mixture of logistics, in nats; `[B, K, H, W]` and `[B, C, H, W]`."""
    channels, half = images.shape[1], (2**bits - 1) / 2
    logits, rest = outputs[:, :mixtures], outputs[:, mixtures:].unflatten(1, (channels, -1, mixtures))
    levels = torch.floor(images * (2 * half) + 0.5)
    x = (levels / half - 1.0)[:, :, None]
    means, log_scales = rest[:, :, 0], rest[:, :, 1].clamp(min=-7.0)
    if channels == 3:
        on = torch.tanh(rest[:, :, 2])
        green, blue = on[:, 0] * x[:, 0], on[:, 1] * x[:, 0] + on[:, 2] * x[:, 1]
        means = means + torch.stack([torch.zeros_like(green), green, blue], 1)
    # In units of a level.
    log_inverse = -(log_scales + math.log(half))
    inverse, centre = log_inverse.exp(), levels[:, :, None] - (means + 1.0) * half
    below, above = F.logsigmoid((centre + 0.5) * inverse), F.logsigmoid((0.5 - centre) * inverse)
    # The sigmoids' difference as a product: 1 - exp(-w) of the bin's width w.
    width = torch.log(-torch.expm1(-log_inverse.clamp(-15.0, 5.0).exp())) + (log_inverse + 15.0).clamp(max=0)
    level = levels[:, :, None]
    inside = below + above + width
    log_mass = torch.where(level < 0.5, below, torch.where(level > 2 * half - 0.5, above, inside))
    return -torch.logsumexp(F.log_softmax(logits, 1) + log_mass.sum(1), 1).sum()


# --- numbers from ours -------------------------------------------------------------------------------------


def load(network: Network, given: Any) -> Network:
    """Copy our parameters, statistics and the singular vectors that training begins with into a network."""
    given = torch_common.host(given)
    params = {"/".join(path): array for path, array in flatten_dict(given["params"]).items()}
    left = set(dict(network.named_parameters()))
    for name, array in params.items():
        theirs = _name(name)
        target = network.get_parameter(theirs)
        with torch.no_grad():
            target.copy_(torch.from_numpy(np.array(_turned(name, array), order="C")))
        left.remove(theirs)
    if left:
        raise ValueError(f"nothing was given for {sorted(left)}")
    for path, array in flatten_dict(given["batch_stats"]).items():
        name = _name("/".join(path))
        with torch.no_grad():
            network.get_buffer(re.sub(r"(mean|var)$", r"running_\1", name)).copy_(torch.tensor(array))
    # The vectors are in the order of our names.
    kernels = sorted(name.removesuffix("/kernel") for name, array in params.items() if array.ndim == 4)
    network.group([network.get_submodule(_name(name)) for name in kernels], given[objectives.VECTORS])
    return network


def _name(name: str) -> str:
    """Torch's name of a module or parameter of ours."""
    *modules, leaf = name.split("/")
    leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
    return ".".join(re.sub(r"_(\d+)$", r".\1", part).lower() for part in [*modules, leaf])


def _turned(name: str, array: np.ndarray) -> np.ndarray:
    """A parameter of ours in torch's layout."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.transpose(2, 0, 1) if array.ndim == 3 else array.T
