"""NVAE's training step and sampling in torch, for comparison only: loops, loss, and numbers from ours."""

import functools
import itertools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax.traverse_util import flatten_dict

from benchmarks.peers import torch_common
from benchmarks.peers.torch_nvae_network import Conv, Network
from experiments import nvae
from vaesr import objectives
from vaesr.distributions import example_keys, example_normal
from vaesr.training.optim import make_schedule

LAYOUTS = torch_common.IMAGE_LAYOUTS


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
