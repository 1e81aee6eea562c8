"""Training steps: a VAE of dense layers and EDSR, ours against the same networks in torch."""

import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from benchmarks.options import Options
from benchmarks.peers import torch_common
from benchmarks.suites.banks import make_bank
from benchmarks.suites.ours import Runner, agree, step_flops
from vaesr.data import ImageSampler
from vaesr.distributions import example_keys
from vaesr.models import edsr, vae
from vaesr.objectives.likelihoods import BernoulliLikelihood
from vaesr.objectives.posterior import sample_posterior
from vaesr.objectives.super_resolution import pixel
from vaesr.objectives.variational import elbo
from vaesr.training import Player

LEARNING_RATE = 1e-4
PARITY_STEPS = 5


def cases(options: Options) -> Iterator[timing.Case]:
    """The suite's cases, built one at a time.

    Args:
        options: the run's settings.

    Yields:
        VAE, EDSR baseline and, on an accelerator, EDSR as in the paper.
    """
    if options.wants("vae"):
        with tempfile.TemporaryDirectory() as folder:
            yield _vae_case(options, pathlib.Path(folder))
    if options.wants("edsr"):
        yield _edsr_case(options, paper=False)
    if "edsr_paper" in options.models or (options.accelerator and not options.models):
        yield _edsr_case(options, paper=True)


# --- VAE ------------------------------------------------------------------------------------------------


def _vae_case(options: Options, folder: pathlib.Path) -> timing.Case:
    """784-500-20-500-784 with tanh, Bernoulli, Adam; data resident on the device, batches drawn from it."""
    model = vae.PRESETS["kingma_welling"]
    batch_size, examples, per_dispatch = 128, 60_000, 50
    if options.smoke:
        model, batch_size, examples, per_dispatch = model.clone(hidden=(32,), latent=4), 16, 256, 4
    player = vae_player(model)
    bank = make_bank(folder, [model.image_shape[:2]] * examples, model.image_shape[2])
    images = bank.pixels
    params = model.init(jax.random.key(1), jnp.zeros((1, *model.image_shape)))["params"]
    batch = {"image": jnp.asarray(images[:batch_size], jnp.float32) / 255.0}
    work = step_flops(player, "vae", params, batch)

    sampler = ImageSampler(bank, "train", batch_size)
    how: dict[str, Any] = {"batches": sampler, "batch_size": batch_size}
    resident = sampler.source()
    scanned = Runner(player, "vae", params, resident, steps_per_dispatch=per_dispatch, **how)
    single = Runner(player, "vae", params, resident, **how)
    sides = [
        scanned.side(f"vaesr, {per_dispatch} steps a dispatch", images=batch_size, work=work),
        single.side("vaesr, 1 step a dispatch", images=batch_size, work=work),
    ]
    hidden = "-".join(map(str, model.hidden))
    name = f"VAE 784-{hidden}-{model.latent}-{hidden}-784 tanh, batch {batch_size}, Adam, float32"
    case = timing.Case("train", name, sides)
    if "torch" in options.peers:
        _add_torch_vae(case, options, model, player, params, batch, images, work)
    return case


def vae_player(model: vae.VAE) -> Player:
    """The VAE's objective and optimizer as measured.

    Args:
        model: a VAE with Bernoulli likelihood.

    Returns:
        The player; its parameters are named "vae".
    """

    def encode(params: Any, images: jax.Array) -> Any:
        return model.apply({"params": params}, images, method="encode")

    def decode(params: Any, z: jax.Array) -> Any:
        return model.apply({"params": params}, z, method="decode")

    return Player(elbo(encode, decode, BernoulliLikelihood()), optax.adam(LEARNING_RATE))


def vae_noise(run_key: jax.Array, step: int, batch_size: int, latent: int) -> jax.Array:
    """The noise that our training step draws for the posterior's sample.

    Args:
        run_key: `state.key`.
        step: the step's number.
        batch_size: examples in the batch.
        latent: latent dimensions.

    Returns:
        `[batch_size, latent]` float32.
    """
    key = jax.random.fold_in(jax.random.fold_in(run_key, step), 0)
    keys = example_keys(jax.random.fold_in(key, 0), jnp.arange(batch_size))
    zeros = jnp.zeros((batch_size, latent))
    return sample_posterior(zeros, zeros, keys, jnp.arange(1))[0][0]


def _add_torch_vae(
    case: timing.Case, options: Options, model: vae.VAE, player: Player,
    params: Any, batch: dict[str, jax.Array], images: np.ndarray, work: float,
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

    batch_size = batch["image"].shape[0]
    with torch_common.exact(), jax.default_matmul_precision("highest"):
        case.parity = _vae_parity(model, player, params, batch, build(), torch, device)
    bank = torch.from_numpy(np.array(images).reshape(images.shape[0], -1)).to(device)

    def loss(network: Any) -> Any:
        chosen = torch.randint(bank.shape[0], (batch_size,), device=device)
        x = bank[chosen].float() / 255.0
        noise = torch.randn(batch_size, model.latent, device=device)
        return torch_vae.loss(network(x, noise), x)

    for name, mode in _torch_modes(options):
        trainer = torch_common.Trainer(build(), loss, learning_rate=LEARNING_RATE, compile_mode=mode)
        case.sides.append(_torch_side(f"torch {name}", trainer, batch_size, work))


def _vae_parity(
    model: vae.VAE, player: Player, params: Any, batch: dict[str, jax.Array],
    network: Any, torch: Any, device: Any,
) -> dict[str, Any]:  # fmt: skip
    """Outputs for the same noise, and the losses of the first steps on the same batch."""
    from benchmarks.peers import torch_vae

    runner = Runner(player, "vae", params, batch)
    batch_size = batch["image"].shape[0]
    run_key = runner.initial.key
    noise = [np.array(vae_noise(run_key, step, batch_size, model.latent)) for step in range(PARITY_STEPS)]
    x = torch.from_numpy(np.array(batch["image"]).reshape(batch_size, -1)).to(device)

    bound: Any = model.bind({"params": params})
    mean_q, log_var_q = bound.encode(batch["image"])
    ours = bound.decode(mean_q + jnp.exp(0.5 * log_var_q) * noise[0]).reshape(batch_size, -1)
    with torch.no_grad():
        theirs = network(x, torch.from_numpy(noise[0]).to(device))[0].cpu().numpy()
    feed = iter(noise)

    def loss(net: Any) -> Any:
        return torch_vae.loss(net(x, torch.from_numpy(next(feed)).to(device)), x)

    trainer = torch_common.Trainer(network, loss, learning_rate=LEARNING_RATE)
    their_losses = [float(trainer.step()) for _ in range(PARITY_STEPS)]
    our_losses = runner.losses(PARITY_STEPS)
    return agree(np.asarray(ours), theirs, our_losses=our_losses, their_losses=their_losses)


def _dense(layer: dict[str, Any]) -> tuple[Any, Any]:
    return layer["kernel"], layer["bias"]


# --- EDSR -----------------------------------------------------------------------------------------------


def _edsr_case(options: Options, *, paper: bool) -> timing.Case:
    """EDSR x2 on one fixed batch of patches: the step alone, without its data."""
    base = edsr.PRESETS["paper_x2" if paper else "baseline_x2"]
    batch_size, patch = (16, 48) if options.accelerator else (4, 48)
    if options.smoke:
        base, batch_size, patch = base.clone(channels=8, blocks=2), 2, 12
    model = base.clone(dtype=jnp.bfloat16) if options.accelerator else base
    batch = edsr_batch(base.scale, batch_size, patch)
    params = edsr_params(base)
    work = step_flops(edsr_player(base.clone(conv_form="direct")), "edsr", params, batch)
    sides = []
    for name, variant in _edsr_variants(model, options):
        runner = Runner(edsr_player(variant), "edsr", params, batch)
        sides.append(runner.side(f"vaesr {name}", images=batch_size, work=work))
    kind = "paper" if paper else "baseline"
    dtype = jnp.dtype(model.dtype).name
    name = f"EDSR {kind} {base.blocks}x{base.channels} x2, LR {patch}, batch {batch_size}, Adam, {dtype}"
    case = timing.Case("train", name, sides)
    if "torch" in options.peers:
        _add_torch_edsr(case, options, base, params, batch, work)
    return case


def _edsr_variants(model: edsr.EDSR, options: Options) -> list[tuple[str, edsr.EDSR]]:
    """The forms of the convolution worth a row: the default, and on CPUs, where they differ, each alone."""
    forms = () if options.accelerator or options.smoke else ("direct", "winograd")
    return [("default", model), *((form, model.clone(conv_form=form)) for form in forms)]


def edsr_player(model: edsr.EDSR) -> Player:
    """EDSR's objective and optimizer as measured.

    Args:
        model: the network.

    Returns:
        The player; its parameters are named "edsr".
    """
    apply: Callable[..., Any] = model.apply
    return Player(pixel(apply), optax.adam(LEARNING_RATE))


def edsr_batch(scale: int, batch_size: int, patch: int) -> dict[str, jax.Array]:
    """A batch of random pairs.

    Args:
        scale: the factor.
        batch_size: pairs.
        patch: side of the small image.

    Returns:
        `x_lr` and `x_hr`, float32 in [0, 1].
    """
    rng = np.random.default_rng(0)
    shapes = {"x_lr": patch, "x_hr": patch * scale}
    return {k: jnp.asarray(rng.random((batch_size, n, n, 3), np.float32)) for k, n in shapes.items()}


def edsr_params(model: edsr.EDSR) -> Any:
    """Random parameters in PyTorch's default ranges, made by numpy: compiling `init` takes longer.

    Args:
        model: the network.

    Returns:
        Its parameter tree.
    """
    rng = np.random.default_rng(1)
    tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]

    def fill(leaf: Any) -> jax.Array:
        fan_in = 9 * (leaf.shape[2] if len(leaf.shape) == 4 else model.channels)
        bound = fan_in**-0.5
        return jnp.asarray(rng.uniform(-bound, bound, leaf.shape), jnp.float32)

    return jax.tree.map(fill, tree)


def _add_torch_edsr(
    case: timing.Case, options: Options, model: edsr.EDSR,
    params: Any, batch: dict[str, jax.Array], work: float,
) -> None:  # fmt: skip
    """Check that torch's network is ours, then add both memory formats to the case."""
    if not torch_common.available():
        case.absent.append(("torch", torch_common.ABSENT))
        return
    from benchmarks.peers import torch_edsr

    torch = torch_common.load(options.threads)
    device = torch_common.device()
    host = jax.tree.map(np.asarray, params)
    nchw = {k: np.array(v).transpose(0, 3, 1, 2).copy() for k, v in batch.items()}
    images = {k: torch.from_numpy(v).to(device) for k, v in nchw.items()}

    def build(memory_format: Any) -> tuple[Any, Callable[[Any], Any]]:
        sizes = {n: getattr(model, n) for n in ("scale", "channels", "blocks", "residual_scale")}
        network = torch_edsr.build(**sizes)
        torch_edsr.load_params(network, host)
        network = network.to(device, memory_format=memory_format)
        x_lr, x_hr = (images[k].contiguous(memory_format=memory_format) for k in ("x_lr", "x_hr"))
        return network, lambda net: 255.0 * torch.nn.functional.l1_loss(net(x_lr), x_hr)

    with torch_common.exact(), jax.default_matmul_precision("highest"):
        built = build(torch.contiguous_format)
        forms = [variant for _, variant in _edsr_variants(model, options)]
        case.parity = _edsr_parity(forms, params, batch, *built, images["x_lr"], torch)
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    for layout, memory_format in layouts.items():
        for name, mode in _torch_modes(options):
            network, loss = build(memory_format)
            trainer = torch_common.Trainer(
                network, loss, learning_rate=LEARNING_RATE, bfloat16=options.accelerator, compile_mode=mode
            )
            case.sides.append(_torch_side(f"torch {name} {layout}", trainer, batch["x_lr"].shape[0], work))


def _edsr_parity(
    forms: list[edsr.EDSR], params: Any, batch: dict[str, jax.Array],
    network: Any, loss: Callable[[Any], Any], x_lr: Any, torch: Any,
) -> dict[str, Any]:  # fmt: skip
    """Outputs, and the losses of the first steps, in float32; the worst of our forms counts."""
    with torch.no_grad():
        theirs = network(x_lr).cpu().numpy().transpose(0, 2, 3, 1)
    trainer = torch_common.Trainer(network, loss, learning_rate=LEARNING_RATE)
    their_losses = [float(trainer.step()) for _ in range(PARITY_STEPS)]
    found = []
    for model in forms:
        ours = np.asarray(jax.jit(model.apply)({"params": params}, batch["x_lr"]))
        our_losses = Runner(edsr_player(model), "edsr", params, batch).losses(PARITY_STEPS)
        found.append(agree(ours, theirs, our_losses=our_losses, their_losses=their_losses))
    worst = {name: max(facts[name] for facts in found) for name in ("output", "losses")}
    return {**worst, "passed": all(facts["passed"] for facts in found)}


# --- both -----------------------------------------------------------------------------------------------


def _torch_modes(options: Options) -> list[tuple[str, str | None]]:
    modes: list[tuple[str, str | None]] = [("eager", None)]
    if options.torch_compile:
        modes.append(("compile", "default"))
        if options.accelerator:
            modes.append(("compile max-autotune", "max-autotune"))
    return modes


def _torch_side(name: str, trainer: Any, images: int, work: float) -> timing.Side:
    return timing.Side(name, "torch", trainer.run, images, work_per_step=work, check=trainer.check)
