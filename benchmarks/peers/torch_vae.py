"""A multilayer-perceptron VAE in torch: our own writing of the architecture, for comparison only."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import torch_common
from benchmarks.steps import PARITY_STEPS
from vaesr.distributions import example_keys
from vaesr.objectives.posterior import posterior_noise

LAYOUTS = ("contiguous",)
Layer = tuple[Any, Any]  # kernel [in, out], bias [out]


def output(training: Any) -> Any:
    """Logits for the noise of the first step; see `benchmarks.peers`."""
    images, model = training.batch["image"], training.run.model
    noise = _noise(training, 0)
    mean_q, log_var_q = training.run.apply(images, method="encode")
    z = mean_q[None] + jnp.exp(0.5 * log_var_q)[None] * noise
    logits = training.run.apply(z.reshape(-1, model.latent), method="decode")
    return logits.reshape(*noise.shape[:2], -1)


def trainer(training: Any, how: torch_common.How) -> torch_common.Trainer | None:
    """See `benchmarks.peers`; None for gradients that only ours has."""
    import torch

    model, objective, device = training.run.model, training.config.objective, torch_common.device()
    if objective.gradient != "pathwise":
        return None
    host = torch_common.host(training.run.collections["params"])
    layers = [[_dense(layer) for _, layer in sorted(host[part].items())] for part in ("encoder", "decoder")]
    mean, log_var = (_dense(host[head]) for head in ("mean_q", "log_var_q"))
    network = build(layers[0], mean, log_var, layers[1], activation=model.activation).to(device)
    images = np.array(training.batch["image"]).reshape(len(training.batch["image"]), -1)
    x, shape = torch.from_numpy(images).to(device), (objective.samples, len(images), model.latent)
    drawn = [torch.from_numpy(np.array(_noise(training, step))).to(device) for step in range(PARITY_STEPS)]
    feed = iter(drawn)
    draw = (lambda: next(feed)) if how.exact else (lambda: torch.randn(shape, device=device))
    measure = loss if objective.kind == "elbo" else importance_loss
    return torch_common.Trainer(
        network, lambda net: measure(net, x, draw()), how=how, learning_rate=training.config.optim.lr,
        output=lambda net: net(x, drawn[0])[0].cpu().numpy(),
    )  # fmt: skip


def _noise(training: Any, step: int) -> jax.Array:
    """What a step of ours draws: `[samples, B, latent]`."""
    count, config = len(training.batch["image"]), training.config
    return vae_noise(
        training.state.key, step, count, training.run.model.latent, samples=config.objective.samples
    )


def vae_noise(run_key: jax.Array, step: int, batch_size: int, latent: int, *, samples: int = 1) -> jax.Array:
    """The noise that our training step draws for the posterior's samples.

    `run_key` is `state.key`; `[samples, batch_size, latent]` float32.
    """
    key = jax.random.fold_in(jax.random.fold_in(run_key, step), 0)
    keys = example_keys(jax.random.fold_in(key, 0), jnp.arange(batch_size))
    return posterior_noise(keys, jnp.arange(samples), (latent,))


def _dense(layer: dict[str, Any]) -> Layer:
    return layer["kernel"], layer["bias"]


def build(
    encoder: Sequence[Layer], mean: Layer, log_var: Layer, decoder: Sequence[Layer], *, activation: str
) -> Any:
    """Make the network with given weights; the activation stands after hidden layers.

    `decoder` are the layers from the latents to the logits; `activation` names a function in `torch` or
    `torch.nn.functional` ("relu", "tanh", "softplus"). `forward(x [B, D], noise [S, B, latent])` gives
    `(logits [S, B, D], mean, log_var)`.
    """
    import torch
    from torch import nn

    act: Callable[[Any], Any] = getattr(torch, activation, None) or getattr(nn.functional, activation)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.ModuleList(map(_linear, encoder))
            self.mean, self.log_var = _linear(mean), _linear(log_var)
            self.decoder = nn.ModuleList(map(_linear, decoder))

        def forward(self, x: Any, noise: Any) -> tuple[Any, Any, Any]:
            for layer in self.encoder:
                x = act(layer(x))
            mean_q, log_var_q = self.mean(x), self.log_var(x)
            z = mean_q + torch.exp(0.5 * log_var_q) * noise  # [S, B, latent]
            for layer in self.decoder[:-1]:
                z = act(layer(z))
            return self.decoder[-1](z), mean_q, log_var_q

    return Network()


def loss(network: Any, x: Any, noise: Any) -> Any:
    """The negative ELBO of a batch in nats per example, its KL in closed form.

    `x` is `[B, D]` in [0, 1], `noise` `[1, B, latent]`.
    """
    import torch

    logits, mean_q, log_var_q = (value.float() for value in network(x, noise))
    nll = torch.nn.functional.binary_cross_entropy_with_logits(logits[0], x, reduction="sum")
    kl = 0.5 * (mean_q.square() + log_var_q.exp() - 1.0 - log_var_q).sum()
    return (nll + kl) / x.shape[0]


def importance_loss(network: Any, x: Any, noise: Any) -> Any:
    """The negative importance-weighted bound of a batch in nats per example.

    `x` is `[B, D]` in [0, 1], `noise` `[K, B, latent]`.
    """
    import torch

    logits, mean_q, log_var_q = (value.float() for value in network(x, noise))
    target = x.expand(logits.shape)
    nll = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
    z = mean_q + torch.exp(0.5 * log_var_q) * noise
    log_ratio = 0.5 * (noise.square() + log_var_q - z.square()).sum(-1)
    return (math.log(len(noise)) - torch.logsumexp(log_ratio - nll, dim=0)).mean()


def _linear(layer: Layer) -> Any:
    import torch

    kernel, bias = (np.array(part, np.float32) for part in layer)
    linear = torch.nn.Linear(*kernel.shape)
    torch_common.copy(linear, kernel, bias, (1, 0))
    return linear
