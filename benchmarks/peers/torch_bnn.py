"""A Bayesian multilayer perceptron in torch: our own writing, for comparison only."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import torch_common
from benchmarks.steps import PARITY_STEPS
from vaesr import distributions
from vaesr.layers import bayesian_apply

LAYOUTS = ("contiguous",)


def output(training: Any) -> Any:
    """Logits for the noise of the first step; see `benchmarks.peers`."""
    images = training.batch["image"]
    forward = bayesian_apply(training.run.model, how=training.config.bayes.how)
    key, position = _step_key(training.state.key, 0), jnp.arange(len(images))
    return forward(training.state.params["bnn"], images, keys=key[None], position=position)[0]


def trainer(training: Any, how: torch_common.How) -> torch_common.Trainer:
    """See `benchmarks.peers`."""
    import torch

    model, bayes, batch, device = (
        training.run.model, training.config.bayes, training.batch, torch_common.device()
    )  # fmt: skip
    names = [f"dense_{number}" for number in range(len(model.hidden))] + ["head"]
    posterior = torch_common.host(training.state.params["bnn"])
    network = build(posterior, names, input_scale=model.input_scale, local=bayes.how == "local").to(device)
    x = torch.from_numpy(np.array(batch["image"]).reshape(len(batch["image"]), -1)).to(device)
    labels = torch.from_numpy(np.array(batch["label"], np.int64)).to(device)
    shapes, key = network.shapes(len(x)), training.state.key
    drawn = [
        jax.tree.map(
            lambda array: torch.from_numpy(array).to(device),
            bnn_noise(key, step, names, shapes, how=bayes.how),
        )
        for step in range(PARITY_STEPS)
    ]
    feed = iter(drawn)
    draw = (lambda: next(feed)) if how.exact else (lambda: _normal(shapes, device))
    knobs = {"examples": training.experiment.sampler.size, "prior_scale": bayes.scale}
    return torch_common.Trainer(
        network, lambda net: loss(net, x, labels, draw(), **knobs), how=how,
        learning_rate=training.config.optim.lr, output=lambda net: net(x, drawn[0]).cpu().numpy(),
    )  # fmt: skip


def _step_key(run_key: jax.Array, step: int) -> jax.Array:
    """The key of the only player's only draw."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(run_key, step), 0), 0)


def bnn_noise(
    run_key: jax.Array, step: int, names: Sequence[str], shapes: list[Any], *, how: str
) -> list[Any]:
    """The noise that our training step draws: per layer an array, or a pair of arrays.

    `run_key` is `state.key`; `shapes` has per layer `(B, out)` if `how` is "local", else ("weights") torch's
    shapes of kernel and bias.
    """
    key = _step_key(run_key, step)
    if how == "local":
        keys = distributions.example_keys(key, jnp.arange(shapes[0][0]))
        own = {n: jax.vmap(lambda k, n=n: distributions.path_key(k, (n,)))(keys) for n in names}
        return [
            np.array(distributions.example_normal(own[name], shape[1:]))
            for name, shape in zip(names, shapes, strict=True)
        ]

    def one(name: str, kind: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.array(jax.random.normal(distributions.path_key(key, (name, kind)), shape[::-1])).T.copy()

    return [
        (one(name, "kernel", kernel), one(name, "bias", bias))
        for name, (kernel, bias) in zip(names, shapes, strict=True)
    ]


def _normal(shapes: list[Any], device: Any) -> list[Any]:
    """Noise of the shapes of `bnn_noise`."""
    import torch

    draw = lambda shape: torch.randn(shape, device=device)  # noqa: E731
    return [tuple(map(draw, shape)) if isinstance(shape[0], tuple) else draw(shape) for shape in shapes]


def build(posterior: Mapping[str, Any], names: Sequence[str], *, input_scale: float, local: bool) -> Any:
    """Make the network with given means and scales of its weights; ReLU between its layers.

    `posterior` is `{"mean": tree, "rho": tree}` of numpy arrays; a layer has a "kernel" and a "bias". The
    inputs are multiplied by `input_scale`. `forward(x, noise)` gives logits; `noise` has a tensor per layer,
    `[B, out]`, if `local` (which draws the outputs of each layer, else its weights), else a pair for kernel
    and bias.
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

    `x` is `[B, D]` in [0, 1], `labels` `[B]`, `noise` what `forward` takes, `examples` the size of the
    training set, `prior_scale` the standard deviation of the Gaussian prior.
    """
    import torch

    nll = torch.nn.functional.cross_entropy(network(x, noise), labels)
    return nll + sum(layer.kl(prior_scale) for layer in network.layers) / examples
