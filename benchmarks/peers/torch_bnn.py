"""A Bayesian multilayer perceptron in torch: our own writing, for comparison only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def build(posterior: Mapping[str, Any], names: Sequence[str], *, input_scale: float, local: bool) -> Any:
    """Make the network with given means and scales of its weights.

    Args:
        posterior: `{"mean": tree, "rho": tree}` of numpy arrays; a layer has a "kernel" and a "bias".
        names: the layers in order; ReLU between them.
        input_scale: the inputs are multiplied by it.
        local: draw the outputs of each layer, else its weights.

    Returns:
        A `torch.nn.Module`; `forward(x, noise)` gives logits. `noise` has a tensor per layer, `[B, out]`, if
        `local`, else a pair for kernel and bias.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    class Layer(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()

            def parameter(part: str, kind: str) -> Any:
                return nn.Parameter(torch.from_numpy(np.array(posterior[part][name][kind].T, np.float32)))

            self.mean, self.mean_bias = parameter("mean", "kernel"), parameter("mean", "bias")
            self.rho, self.rho_bias = parameter("rho", "kernel"), parameter("rho", "bias")

        def forward(self, x: Any, noise: Any) -> Any:
            scale, scale_bias = functional.softplus(self.rho), functional.softplus(self.rho_bias)
            if local:
                mean = functional.linear(x, self.mean, self.mean_bias)
                variance = functional.linear(x.square(), scale.square(), scale_bias.square())
                return mean + variance.sqrt() * noise
            weight = self.mean + scale * noise[0]
            return functional.linear(x, weight, self.mean_bias + scale_bias * noise[1])

        def kl(self, prior_scale: float) -> Any:
            total = 0.0
            for mean, rho in ((self.mean, self.rho), (self.mean_bias, self.rho_bias)):
                scale = functional.softplus(rho)
                ratio = (scale / prior_scale).square() + (mean / prior_scale).square()
                total = total + 0.5 * (ratio - 1.0).sum() - (scale / prior_scale).log().sum()
            return total

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(map(Layer, names))

        def forward(self, x: Any, noise: Any) -> Any:
            x = x * input_scale
            for number, layer in enumerate(self.layers):
                x = layer(functional.relu(x) if number else x, noise[number])
            return x

        def shapes(self, batch: int) -> list[Any]:
            """Shapes of the noise that `forward` takes."""
            if local:
                return [(batch, layer.mean.shape[0]) for layer in self.layers]
            return [(tuple(layer.mean.shape), tuple(layer.mean_bias.shape)) for layer in self.layers]

    return Network()


def loss(network: Any, x: Any, labels: Any, noise: Any, *, examples: int, prior_scale: float) -> Any:
    """The negative ELBO of a batch, in nats per example.

    Args:
        network: of `build`.
        x: `[B, D]` in [0, 1].
        labels: `[B]` class numbers.
        noise: what `forward` takes.
        examples: size of the training set.
        prior_scale: standard deviation of the Gaussian prior.

    Returns:
        A scalar tensor.
    """
    import torch

    nll = torch.nn.functional.cross_entropy(network(x, noise), labels)
    return nll + sum(layer.kl(prior_scale) for layer in network.layers) / examples
