"""A multilayer-perceptron VAE in torch: our own writing of the architecture, for comparison only."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Layer = tuple[Any, Any]  # kernel [in, out], bias [out]


def build(
    encoder: Sequence[Layer], mean: Layer, log_var: Layer, decoder: Sequence[Layer], *, activation: str
) -> Any:
    """Make the network with given weights.

    Args:
        encoder: hidden layers, each followed by the activation.
        mean: the layer that gives the posterior's means.
        log_var: the layer that gives its log-variances.
        decoder: layers from the latents to the logits; the activation between them.
        activation: the name of a function in `torch` or `torch.nn.functional` ("relu", "tanh", "softplus").

    Returns:
        A `torch.nn.Module`; `forward(x [B, D], noise [S, B, latent])` gives `(logits [S, B, D],
        mean, log_var)`.
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
    """The negative ELBO of a batch, its KL in closed form.

    Args:
        network: of `build`.
        x: `[B, D]` in [0, 1].
        noise: `[1, B, latent]`.

    Returns:
        A scalar tensor, nats per example.
    """
    import torch

    logits, mean_q, log_var_q = (value.float() for value in network(x, noise))
    nll = torch.nn.functional.binary_cross_entropy_with_logits(logits[0], x, reduction="sum")
    kl = 0.5 * (mean_q.square() + log_var_q.exp() - 1.0 - log_var_q).sum()
    return (nll + kl) / x.shape[0]


def importance_loss(network: Any, x: Any, noise: Any) -> Any:
    """The negative importance-weighted bound of a batch.

    Args:
        network: of `build`.
        x: `[B, D]` in [0, 1].
        noise: `[K, B, latent]`.

    Returns:
        A scalar tensor, nats per example.
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
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel.T)))
        linear.bias.copy_(torch.from_numpy(bias))
    return linear
