"""Training steps of VAEs of dense layers, with the ELBO and the importance-weighted bound."""

import functools
import pathlib
from collections.abc import Callable
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
from vaesr.data import ImageSampler
from vaesr.distributions import example_keys
from vaesr.models import vae
from vaesr.objectives.likelihoods import BernoulliLikelihood
from vaesr.objectives.posterior import posterior_noise
from vaesr.objectives.variational import elbo, iwae
from vaesr.training import Player

IMPORTANCE_SAMPLES = 50


def vae_case(options: Options, folder: pathlib.Path) -> timing.Case:
    """784-500-20-500-784 with tanh, Bernoulli, Adam; data resident on the device, batches drawn from it.

    Args:
        options: the run's settings.
        folder: for the data.

    Returns:
        The case.
    """
    model = vae.PRESETS["kingma_welling"]
    return _case(options, folder, model, {"": vae_player(model)}, samples=1, dispatches=(1, 50, "epoch"))


def iwae_case(options: Options, folder: pathlib.Path) -> timing.Case:
    """784-200-200-50-200-200-784 with tanh, the bound of 50 samples, plain and doubly reparameterised.

    Args:
        options: the run's settings.
        folder: for the data.

    Returns:
        The case. Torch's side is the plain gradient; parity is checked for it.
    """
    model = vae.PRESETS["iwae"]
    samples = 4 if options.smoke else IMPORTANCE_SAMPLES
    players = {
        f" {gradient}": vae_player(model, samples=samples, gradient=gradient)
        for gradient in ("pathwise", "dreg")
    }
    return _case(options, folder, model, players, samples=samples, dispatches=(1, 50))


def vae_player(model: vae.VAE, *, samples: int = 1, gradient: str = "pathwise") -> Player:
    """The VAE's objective and optimizer as measured.

    Args:
        model: a VAE with Bernoulli likelihood.
        samples: 1 is the ELBO with its KL in closed form, more the importance-weighted bound.
        gradient: of the importance-weighted bound.

    Returns:
        The player; its parameters are named "vae".
    """

    def encode(params: Any, images: jax.Array) -> Any:
        return model.apply({"params": params}, images, method="encode")

    def decode(params: Any, z: jax.Array) -> Any:
        return model.apply({"params": params}, z, method="decode")

    objective = elbo if samples == 1 else functools.partial(iwae, samples=samples, gradient=gradient)
    return Player(objective(encode, decode, BernoulliLikelihood()), optax.adam(LEARNING_RATE))


def vae_noise(run_key: jax.Array, step: int, batch_size: int, latent: int, *, samples: int = 1) -> jax.Array:
    """The noise that our training step draws for the posterior's samples.

    Args:
        run_key: `state.key`.
        step: the step's number.
        batch_size: examples in the batch.
        latent: latent dimensions.
        samples: samples per example.

    Returns:
        `[samples, batch_size, latent]` float32.
    """
    key = jax.random.fold_in(jax.random.fold_in(run_key, step), 0)
    keys = example_keys(jax.random.fold_in(key, 0), jnp.arange(batch_size))
    return posterior_noise(keys, jnp.arange(samples), (latent,))


def _case(
    options: Options, folder: pathlib.Path, model: vae.VAE, players: dict[str, Player], *,
    samples: int, dispatches: tuple[Any, ...],
) -> timing.Case:  # fmt: skip
    """Our sides, one per player and number of steps per dispatch, and torch's."""
    batch_size, examples = 128, 60_000
    if options.smoke:
        model, batch_size, examples = model.clone(hidden=(32,), latent=4), 16, 256
        gradients = ("pathwise",) if samples == 1 else ("pathwise", "dreg")
        players = {
            name: vae_player(model, samples=samples, gradient=gradient)
            for name, gradient in zip(players, gradients, strict=True)
        }
    bank = make_bank(folder, [model.image_shape[:2]] * examples, model.image_shape[2])
    params = model.init(jax.random.key(1), jnp.zeros((1, *model.image_shape)))["params"]
    batch = {"image": jnp.asarray(bank.pixels[:batch_size], jnp.float32) / 255.0}
    sampler = ImageSampler(bank, "train", batch_size)
    resident = sampler.source()
    sides, first = [], next(iter(players.values()))
    dispatches = dispatches[-1:] if options.smoke else dispatches
    work = step_flops(first, "vae", params, batch)
    for name, player in players.items():
        for dispatch in dispatches:
            steps = sampler.size // batch_size if dispatch == "epoch" else dispatch
            steps = min(steps, 4) if options.smoke else steps
            runner = Runner(
                player, "vae", params, resident,
                batches=sampler, batch_size=batch_size, steps_per_dispatch=steps,
            )  # fmt: skip
            words = "one epoch" if dispatch == "epoch" else f"{steps} step" + "s" * (steps > 1)
            sides.append(runner.side(f"vaesr{name}, {words} a dispatch", images=batch_size, work=work))
    case = timing.Case("train", _name(model, batch_size, samples), sides)
    if "torch" in options.peers:
        _add_torch(case, options, model, first, params, batch, bank.pixels, work, samples)
    return case


def _name(model: vae.VAE, batch_size: int, samples: int) -> str:
    widths = [784, *model.hidden, model.latent, *model.hidden[::-1], 784]
    kind = "VAE" if samples == 1 else f"IWAE-{samples}"
    return f"{kind} {'-'.join(map(str, widths))} tanh, batch {batch_size}, Adam, float32"


def _add_torch(
    case: timing.Case, options: Options, model: vae.VAE, player: Player,
    params: Any, batch: dict[str, jax.Array], images: np.ndarray, work: float, samples: int,
) -> None:  # fmt: skip
    """Check that torch's network is ours, then add its loops to the case."""
    if not torch_common.available():
        case.absent.append(("torch", torch_common.ABSENT))
        return
    from benchmarks.peers import torch_vae

    torch = torch_common.load(options.threads)
    device = torch_common.device()
    host = jax.tree.map(np.asarray, params)

    def build() -> Any:
        layers = [
            [_dense(layer) for _, layer in sorted(host[part].items())] for part in ("encoder", "decoder")
        ]
        mean, log_var = (_dense(host[head]) for head in ("mean_q", "log_var_q"))
        network = torch_vae.build(layers[0], mean, log_var, layers[1], activation=model.activation)
        return network.to(device)

    measure: Callable[..., Any] = torch_vae.loss if samples == 1 else torch_vae.importance_loss
    batch_size = batch["image"].shape[0]
    with torch_common.exact(), jax.default_matmul_precision("highest"):
        case.parity = _parity(model, player, params, batch, build(), measure, samples)
    bank = torch.from_numpy(np.array(images).reshape(images.shape[0], -1)).to(device)

    def loss(network: Any) -> Any:
        chosen = torch.randint(bank.shape[0], (batch_size,), device=device)
        x = bank[chosen].float() / 255.0
        noise = torch.randn(samples, batch_size, model.latent, device=device)
        return measure(network, x, noise)

    for name, mode in torch_common.modes(options):
        trainer = torch_common.Trainer(build(), loss, learning_rate=LEARNING_RATE, compile_mode=mode)
        case.sides.append(torch_common.side(f"torch {name}", trainer, batch_size, work))


def _parity(
    model: vae.VAE, player: Player, params: Any, batch: dict[str, jax.Array],
    network: Any, measure: Callable[..., Any], samples: int,
) -> dict[str, Any]:  # fmt: skip
    """Outputs for the same noise, and the losses of the first steps on the same batch."""
    import torch

    device = torch_common.device()
    runner = Runner(player, "vae", params, batch)
    batch_size, run_key = batch["image"].shape[0], runner.initial.key
    noise = [
        np.array(vae_noise(run_key, step, batch_size, model.latent, samples=samples))
        for step in range(PARITY_STEPS)
    ]
    x = torch.from_numpy(np.array(batch["image"]).reshape(batch_size, -1)).to(device)

    bound: Any = model.bind({"params": params})
    mean_q, log_var_q = bound.encode(batch["image"])
    z = mean_q[None] + jnp.exp(0.5 * log_var_q)[None] * noise[0]
    ours = bound.decode(z.reshape(-1, model.latent)).reshape(samples, batch_size, -1)
    with torch.no_grad():
        theirs = network(x, torch.from_numpy(noise[0]).to(device))[0].cpu().numpy()
    feed = iter(noise)
    trainer = torch_common.Trainer(
        network, lambda net: measure(net, x, torch.from_numpy(next(feed)).to(device)),
        learning_rate=LEARNING_RATE,
    )  # fmt: skip
    their_losses = [float(trainer.step()) for _ in range(PARITY_STEPS)]
    our_losses = runner.losses(PARITY_STEPS)
    return agree(np.asarray(ours), theirs, our_losses=our_losses, their_losses=their_losses)


def _dense(layer: dict[str, Any]) -> tuple[Any, Any]:
    return layer["kernel"], layer["bias"]
