"""Training steps of a Bayesian perceptron: outputs drawn (local reparameterisation), and weights drawn."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from benchmarks.options import Options
from benchmarks.peers import torch_common
from benchmarks.suites.banks import make_bank
from benchmarks.suites.ours import LEARNING_RATE, PARITY_STEPS, Runner, agree, step_flops
from vaesr import distributions
from vaesr.data import ImageSampler
from vaesr.layers import bayesian_apply
from vaesr.models import classifier
from vaesr.objectives import bayesian, classification_nll
from vaesr.training import Player

_PRIOR_SCALE = 1.0
_CLASSES = 10


def bnn_case(options: Options, folder: pathlib.Path, *, how: str) -> timing.Case:
    """784-400-400-10 with ReLU, Gaussian posterior and prior, Adam; data resident on the device.

    Args:
        options: the run's settings.
        folder: for the data.
        how: "local" or "weights", see `vaesr.layers.bayesian_apply`.

    Returns:
        The case.
    """
    model = classifier.PRESETS["blundell_400"]
    batch_size, examples, per_dispatch = 128, 60_000, 50
    if options.smoke:
        model, batch_size, examples, per_dispatch = model.clone(hidden=(32,)), 16, 256, 4
    bank = make_bank(folder, [model.input_shape[:2]] * examples, model.input_shape[2], classes=_CLASSES)
    params = model.init(jax.random.key(1), jnp.zeros((1, *model.input_shape)))["params"]
    posterior = distributions.mean_field(params, scale=0.05)
    player = bnn_player(model, how=how, examples=examples)
    batch = {
        "image": jnp.asarray(bank.pixels[:batch_size], jnp.float32) / 255.0,
        "label": jnp.asarray(bank.labels[:batch_size]),
    }
    work = step_flops(player, "bnn", posterior, batch)
    sampler = ImageSampler(bank, "train", batch_size)
    sides = []
    for steps in (per_dispatch,) if options.smoke else (per_dispatch, 1):
        runner = Runner(
            player, "bnn", posterior, sampler.source(),
            batches=sampler, batch_size=batch_size, steps_per_dispatch=steps,
        )  # fmt: skip
        words = f"{steps} step" + "s" * (steps > 1)
        sides.append(runner.side(f"vaesr, {words} a dispatch", images=batch_size, work=work))
    drawn = {"local": "outputs drawn", "weights": "weights drawn"}[how]
    widths = "-".join(map(str, (784, *model.hidden, _CLASSES)))
    case = timing.Case("train", f"BNN {widths} ReLU, {drawn}, batch {batch_size}, Adam, float32", sides)
    if "torch" in options.peers:
        _add_torch(case, options, model, how, player, posterior, batch, bank, work)
    return case


def bnn_player(model: classifier.Classifier, *, how: str, examples: int) -> Player:
    """The Bayesian net's objective and optimizer as measured.

    Args:
        model: a classifier.
        how: "local" or "weights".
        examples: size of the training set.

    Returns:
        The player; its parameters are named "bnn".
    """
    objective = bayesian(
        bayesian_apply(model, how=how), classification_nll,
        dataset_size=examples, prior=distributions.GaussianPrior(_PRIOR_SCALE),
    )  # fmt: skip
    return Player(objective, optax.adam(LEARNING_RATE))


def bnn_noise(run_key: jax.Array, step: int, names: list[str], shapes: list[Any], *, how: str) -> list[Any]:
    """The noise that our training step draws.

    Args:
        run_key: `state.key`.
        step: the step's number.
        names: the layers.
        shapes: per layer `(B, out)` if `how` is "local", else torch's shapes of kernel and bias.
        how: "local" or "weights".

    Returns:
        Per layer an array, or a pair of arrays.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(run_key, step), 0), 0)
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


def _add_torch(
    case: timing.Case, options: Options, model: classifier.Classifier, how: str, player: Player,
    posterior: Any, batch: dict[str, jax.Array], bank: Any, work: float,
) -> None:  # fmt: skip
    """Check that torch's network is ours, then add its loops to the case."""
    if not torch_common.available():
        case.absent.append(("torch", torch_common.ABSENT))
        return
    from benchmarks.peers import torch_bnn

    torch = torch_common.load(options.threads)
    device = torch_common.device()
    host = jax.tree.map(np.asarray, posterior)
    names = [f"dense_{number}" for number in range(len(model.hidden))] + ["head"]
    examples, batch_size = len(bank.pixels), batch["image"].shape[0]
    knobs = {"examples": examples, "prior_scale": _PRIOR_SCALE}

    def build() -> Any:
        network = torch_bnn.build(host, names, input_scale=model.input_scale, local=how == "local")
        return network.to(device)

    with torch_common.exact(), jax.default_matmul_precision("highest"):
        case.parity = _parity(model, how, player, posterior, batch, build(), names, knobs)
    images = torch.from_numpy(np.array(bank.pixels).reshape(examples, -1)).to(device)
    labels = torch.from_numpy(np.array(bank.labels, np.int64)).to(device)
    shapes = build().shapes(batch_size)

    def loss(network: Any) -> Any:
        chosen = torch.randint(examples, (batch_size,), device=device)
        noise = _tensors(shapes, lambda shape: torch.randn(shape, device=device))
        return torch_bnn.loss(network, images[chosen].float() / 255.0, labels[chosen], noise, **knobs)

    for name, mode in torch_common.modes(options):
        trainer = torch_common.Trainer(build(), loss, learning_rate=LEARNING_RATE, compile_mode=mode)
        case.sides.append(torch_common.side(f"torch {name}", trainer, batch_size, work))


def _parity(
    model: classifier.Classifier, how: str, player: Player, posterior: Any, batch: dict[str, jax.Array],
    network: Any, names: list[str], knobs: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Outputs for the same noise, and the losses of the first steps on the same batch."""
    import torch

    from benchmarks.peers import torch_bnn

    device = torch_common.device()
    runner = Runner(player, "bnn", posterior, batch)
    batch_size, run_key = batch["image"].shape[0], runner.initial.key
    shapes = network.shapes(batch_size)
    noise = [
        jax.tree.map(
            lambda array: torch.from_numpy(array).to(device),
            bnn_noise(run_key, step, names, shapes, how=how),
        )
        for step in range(PARITY_STEPS)
    ]
    x = torch.from_numpy(np.array(batch["image"]).reshape(batch_size, -1)).to(device)
    labels = torch.from_numpy(np.array(batch["label"], np.int64)).to(device)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(run_key, 0), 0), 0)
    ours = bayesian_apply(model, how=how)(
        posterior, batch["image"], keys=key[None], position=jnp.arange(batch_size)
    )[0]
    with torch.no_grad():
        theirs = network(x, noise[0]).cpu().numpy()
    feed = iter(noise)
    trainer = torch_common.Trainer(
        network, lambda net: torch_bnn.loss(net, x, labels, next(feed), **knobs), learning_rate=LEARNING_RATE
    )
    their_losses = [float(trainer.step()) for _ in range(PARITY_STEPS)]
    our_losses = runner.losses(PARITY_STEPS)
    return agree(np.asarray(ours), theirs, our_losses=our_losses, their_losses=their_losses)


def _tensors(shapes: list[Any], draw: Any) -> list[Any]:
    """Noise of the shapes of `bnn_noise`."""
    return [tuple(map(draw, shape)) if isinstance(shape[0], tuple) else draw(shape) for shape in shapes]
