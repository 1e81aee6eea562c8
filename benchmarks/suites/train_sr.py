"""Training steps of RCAN, RRDBNet, SRGAN and ESRGAN, ours against the same networks in torch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from benchmarks import timing
from benchmarks.options import Options
from benchmarks.peers import torch_common
from benchmarks.suites.ours import LEARNING_RATE, PARITY_STEPS, Runner, agree, sr_batch, step_flops
from vaesr import losses, objectives
from vaesr.models.discriminators import SRGANDiscriminator, VGGDiscriminator
from vaesr.models.feature_networks import IMAGENET_DEVIATION, IMAGENET_MEAN, VGG
from vaesr.models.rcan import RCAN
from vaesr.models.rrdb import RRDBNet
from vaesr.models.srresnet import SRResNet
from vaesr.training import Player

PLAYERS = ("generator", "discriminator")


def pixel_case(options: Options, name: str) -> timing.Case:
    """RCAN x2 or RRDBNet x4 with L1, on one fixed batch.

    On a CPU the paper's width at a part of its depth, so that a step takes a second at most.

    Args:
        options: the run's settings.
        name: "rcan" or "rrdb".

    Returns:
        The case.
    """
    base, batch_size, patch = _pixel_sizes(options, name)
    model = base.clone(dtype=jnp.bfloat16) if options.accelerator else base
    batch = sr_batch(base.scale, batch_size, patch)
    params = filled(base, batch["x_lr"])["params"]
    work = step_flops(pixel_player(base.clone(conv_form="direct")), "generator", params, batch)
    runner = Runner(pixel_player(model), "generator", params, batch)
    depth = f"{base.groups}x{base.blocks}" if isinstance(base, RCAN) else f"{base.blocks}"
    dtype = jnp.dtype(model.dtype).name
    title = (
        f"{name.upper()} {depth}x{base.channels} x{base.scale}, LR {patch}, batch {batch_size}, Adam, {dtype}"
    )
    case = timing.Case("train", title, [runner.side("vaesr default", images=batch_size, work=work)])
    if "torch" in options.peers:
        build = functools.partial(_torch_pixel, base, params, batch)
        exact = Runner(pixel_player(base), "generator", params, batch) if options.accelerator else runner
        output = functools.partial(jax.jit(base.apply), {"params": params}, batch["x_lr"])
        _add_torch(case, options, build, exact, output, work)
    return case


def _pixel_sizes(options: Options, name: str) -> tuple[Any, int, int]:
    """Network, batch and patch."""
    if name == "rcan":
        if options.smoke:
            return RCAN(channels=8, groups=1, blocks=1, reduction=4), 2, 8
        return (RCAN(), 16, 48) if options.accelerator else (RCAN(groups=2, blocks=4), 2, 48)
    if options.smoke:
        return RRDBNet(channels=8, growth=4, blocks=1), 2, 8
    return (RRDBNet(), 16, 32) if options.accelerator else (RRDBNet(blocks=2), 2, 32)


def gan_case(options: Options, name: str) -> timing.Case:
    """A full step of SRGAN or ESRGAN x4 (both players, VGG19 with random weights), on one fixed batch.

    On a CPU a part of the generator's depth and small batches.

    Args:
        options: the run's settings.
        name: "srgan" or "esrgan".

    Returns:
        The case.
    """
    sizes = gan_networks(options, name)
    generator, discriminator, trunk, batch_size, patch = sizes
    batch = sr_batch(generator.scale, batch_size, patch)
    params, variables = gan_trees(generator, discriminator, trunk, batch)
    plain = gan_players(name, *(_in_form(m, "direct") for m in sizes[:3]))
    work = step_flops(plain, "generator", params, batch, variables=variables)
    fast = [_in_form(m.clone(dtype=jnp.bfloat16) if options.accelerator else m, "auto") for m in sizes[:3]]
    runner = Runner(gan_players(name, *fast), "generator", params, batch, variables=variables)
    dtype = jnp.dtype(fast[0].dtype).name
    title = (
        f"{name.upper()} x4, {generator.blocks} blocks, VGG{3 + sum(trunk.depths)}, both players, "
        f"LR {patch}, batch {batch_size}, Adam, {dtype}"
    )
    case = timing.Case("train", title, [runner.side("vaesr default", images=batch_size, work=work)])
    if "torch" in options.peers:
        build = functools.partial(_torch_gan, name, sizes[:3], params, variables, batch)
        exact = runner
        if options.accelerator:
            exact = Runner(plain, "generator", params, batch, variables=variables)
        collections = {"params": params["generator"], **variables.get("generator", {})}
        output = functools.partial(jax.jit(generator.apply), collections, batch["x_lr"])
        _add_torch(case, options, build, exact, output, work)
    return case


def gan_networks(options: Options, name: str) -> tuple[Any, Any, VGG, int, int]:
    """Generator, discriminator, feature network, batch and patch.

    Args:
        options: the run's settings.
        name: "srgan" or "esrgan".

    Returns:
        As said.
    """
    depths, last = ((1, 1), "2_1") if options.smoke else ((2, 2, 4, 4, 4), "5_4")
    kind = "relu" if name == "srgan" else "conv"
    trunk = VGG(depths, (f"{kind}{last}",), mean=IMAGENET_MEAN, deviation=IMAGENET_DEVIATION)
    if name == "srgan":
        if options.smoke:
            return SRResNet(channels=8, blocks=1), SRGANDiscriminator(4, 8, 2), trunk, 2, 4
        batch_size, blocks = (16, 16) if options.accelerator else (2, 4)
        return SRResNet(blocks=blocks), SRGANDiscriminator(), trunk, batch_size, 24
    if options.smoke:
        return RRDBNet(channels=8, growth=4, blocks=1), VGGDiscriminator(4, 8, 2), trunk, 2, 4
    batch_size, blocks = (16, 23) if options.accelerator else (1, 2)
    return RRDBNet(blocks=blocks), VGGDiscriminator(), trunk, batch_size, 32


def _in_form(model: Any, form: str) -> Any:
    return model.clone(conv_form=form) if hasattr(model, "conv_form") else model


# --- Ours ---


def filled(model: nn.Module, images: jax.Array, seed: int = 1) -> dict[str, Any]:
    """All variables of a network, made by numpy: compiling `init` takes longer.

    Args:
        model: the network.
        images: what it is called with.
        seed: of the numbers.

    Returns:
        `{collection: tree}`.
    """
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images))

    def fill(path: Any, leaf: Any) -> jax.Array:
        name = path[-1].key
        if name in ("var", "scale"):
            return jnp.ones(leaf.shape, jnp.float32)
        if name == "slope":
            return jnp.full(leaf.shape, 0.25, jnp.float32)
        if name in ("mean", "bias"):
            return jnp.zeros(leaf.shape, jnp.float32)
        spread = (1 / np.prod(leaf.shape[:-1])) ** 0.5
        return jnp.asarray(rng.normal(0, spread, leaf.shape), jnp.float32)

    found: dict[str, Any] = jax.tree_util.tree_map_with_path(fill, shapes)
    return found


def pixel_player(model: Any) -> Player:
    """L1 and Adam, as measured.

    Args:
        model: the network.

    Returns:
        The player; its parameters are named "generator".
    """
    apply: Callable[..., Any] = model.apply
    return Player(objectives.pixel(apply, player="generator"), optax.adam(LEARNING_RATE))


def gan_players(name: str, generator: Any, discriminator: Any, trunk: VGG) -> dict[str, Player]:
    """Both players with the paper's losses and Adam.

    Args:
        name: "srgan" or "esrgan".
        generator: the upscaler.
        discriminator: its judge.
        trunk: the content loss's network.

    Returns:
        The players by name.
    """
    apply: Callable[..., Any] = trunk.apply
    if name == "srgan":
        settings: dict[str, Any] = {
            "loss": losses.ADVERSARIAL["standard"], "adversarial_weight": 1e-3, "pixel_weight": 0.0,
            "content": objectives.feature_content(apply, distance=losses.mse),
            "content_weight": 12.75**-2,
        }  # fmt: skip
    else:
        settings = {"content": objectives.feature_content(apply)}
    both = objectives.restoration_gan(
        objectives.in_training(generator.apply), objectives.in_training(discriminator.apply), **settings
    )
    return {player: Player(objective, optax.adam(LEARNING_RATE)) for player, objective in both.items()}


def gan_trees(
    generator: Any, discriminator: Any, trunk: VGG, batch: dict[str, jax.Array]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and variables of all networks.

    Args:
        generator: the upscaler.
        discriminator: its judge.
        trunk: the content loss's network.
        batch: a batch.

    Returns:
        `(params, variables)`.
    """
    trees = {
        "generator": filled(generator, batch["x_lr"]),
        "discriminator": filled(discriminator, batch["x_hr"], seed=2),
    }
    params = {name: tree["params"] for name, tree in trees.items()}
    variables = {name: {k: v for k, v in tree.items() if k != "params"} for name, tree in trees.items()}
    variables = {name: own for name, own in variables.items() if own}
    return params, variables | {objectives.FEATURES: filled(trunk, batch["x_hr"], seed=3)}


# --- Torch ---


def _torch_pixel(
    model: Any,
    params: Any,
    batch: dict[str, jax.Array],
    memory_format: Any,
    options: Options,
    mode: str | None,
) -> Any:
    from benchmarks.peers import torch_gan

    return torch_gan.pixel_trainer(model, params, batch, memory_format, options.accelerator, mode)


def _torch_gan(
    name: str, networks: Any, params: Any, variables: Any, batch: dict[str, jax.Array], memory_format: Any,
    options: Options, mode: str | None,
) -> Any:  # fmt: skip
    from benchmarks.peers import torch_gan

    return torch_gan.gan_trainer(
        name, networks, params, variables, batch, memory_format, options.accelerator, mode
    )


def _add_torch(
    case: timing.Case, options: Options, build: Callable[..., Any], runner: Runner, output: Callable[[], Any],
    work: float,
) -> None:  # fmt: skip
    """Check that torch's output and losses are ours, then add its modes to the case.

    `runner` and `output` are ours in float32, `build(memory_format, options, mode)` makes torch's loop.
    """
    if not torch_common.available():
        case.absent.append(("torch", torch_common.ABSENT))
        return
    torch = torch_common.load(options.threads)
    with torch_common.exact(), jax.default_matmul_precision("highest"):
        trainer = build(torch.contiguous_format, Options(smoke=options.smoke), None)
        theirs = trainer.output().transpose(0, 2, 3, 1)
        their_losses = [float(trainer.step()) for _ in range(PARITY_STEPS)]
        ours, our_losses = np.asarray(output()), runner.losses(PARITY_STEPS)
    case.parity = agree(ours, theirs, our_losses=our_losses, their_losses=their_losses)
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    images = runner.source["x_lr"].shape[0]
    for layout, memory_format in layouts.items():
        for name, mode in torch_common.modes(options):
            trainer = build(memory_format, options, mode)
            case.sides.append(torch_common.side(f"torch {name} {layout}", trainer, images, work))
