"""PixelSNAIL's training step, ours against the same network in torch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from benchmarks.options import Options
from benchmarks.peers import torch_common
from benchmarks.suites.ours import LEARNING_RATE, PARITY_STEPS, Runner, agree, step_flops
from vaesr.models.pixelsnail import PixelSNAIL
from vaesr.objectives.autoregressive import autoregressive
from vaesr.training import Player


def pixelsnail_case(options: Options) -> timing.Case:
    """Two blocks over 16 x 16 maps (the paper's top prior over 32 x 32 on an accelerator), without dropout.

    Args:
        options: the run's settings.

    Returns:
        The case.
    """
    base, batch_size = PixelSNAIL(shape=(16, 16), channels=64, blocks=2, layers=2, kernel=3, heads=4), 8
    if options.accelerator:
        base, batch_size = PixelSNAIL(shape=(32, 32), channels=256, blocks=4, layers=4, kernel=5), 32
    if options.smoke:
        base, batch_size = base.clone(shape=(4, 4), codes=8, channels=8, heads=2), 2
    base = base.clone(dropout=0.0)
    model = base.clone(dtype=jnp.bfloat16) if options.accelerator else base
    codes = np.random.default_rng(0).integers(0, base.codes, (batch_size, *base.shape))
    batch = {"codes": jnp.asarray(codes, jnp.int32)}
    params = _start(base)
    work = step_flops(pixelsnail_player(base), "prior", params, batch)
    runner = Runner(pixelsnail_player(model), "prior", params, batch)
    name = (
        f"PixelSNAIL {base.blocks}x{base.layers}x{base.channels}, {base.shape[0]}x{base.shape[1]} codes, "
        f"K={base.codes}, batch {batch_size}, Adam, {jnp.dtype(model.dtype).name}"
    )
    case = timing.Case("train", name, [runner.side("vaesr", images=batch_size, work=work)])
    if "torch" in options.peers:
        _add_torch(case, options, base, params, batch, work)
    return case


def pixelsnail_player(model: PixelSNAIL) -> Player:
    """The objective and optimizer as measured.

    Args:
        model: the network.

    Returns:
        The player; its parameters are named "prior".
    """
    apply = lambda params, codes, **given: model.apply({"params": params}, codes, **given)  # noqa: E731
    return Player(autoregressive(apply), optax.adam(LEARNING_RATE))


def _start(model: PixelSNAIL) -> Any:
    """Random parameters, made by numpy: compiling `init` takes longer."""
    rng = np.random.default_rng(1)
    codes = jnp.zeros((1, *model.shape), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), codes)["params"]

    def fill(leaf: Any) -> jax.Array:
        bound = max(int(np.prod(leaf.shape[:-1])), 1) ** -0.5
        return jnp.asarray(rng.uniform(-bound, bound, leaf.shape), jnp.float32)

    return jax.tree.map(fill, shapes)


def _add_torch(
    case: timing.Case, options: Options, model: PixelSNAIL, params: Any,
    batch: dict[str, jax.Array], work: float,
) -> None:  # fmt: skip
    """Check that torch's network is ours, then add both memory formats to the case."""
    if not torch_common.available():
        case.absent.append(("torch", torch_common.ABSENT))
        return
    from benchmarks.peers import torch_pixelsnail

    torch = torch_common.load(options.threads)
    device = torch_common.device()
    host = jax.tree.map(np.asarray, params)
    codes = torch.from_numpy(np.array(batch["codes"], np.int64)).to(device)

    def build(memory_format: Any) -> tuple[Any, Callable[[Any], Any]]:
        network = torch_pixelsnail.build(model)
        torch_pixelsnail.load(network, host)
        network = network.to(device, memory_format=memory_format)
        return network, lambda net: torch.nn.functional.cross_entropy(net(codes), codes)

    with torch_common.exact(), jax.default_matmul_precision("highest"):
        network, loss = build(torch.contiguous_format)
        with torch.no_grad():
            theirs = network(codes).cpu().numpy().transpose(0, 2, 3, 1)
        trainer = torch_common.Trainer(network, loss, learning_rate=LEARNING_RATE)
        their_losses = [float(trainer.step()) for _ in range(PARITY_STEPS)]
        ours = np.asarray(jax.jit(model.apply)({"params": params}, batch["codes"]))
        our_losses = Runner(pixelsnail_player(model), "prior", params, batch).losses(PARITY_STEPS)
        case.parity = agree(ours, theirs, our_losses=our_losses, their_losses=their_losses)
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    for layout, memory_format in layouts.items():
        for name, mode in torch_common.modes(options):
            network, loss = build(memory_format)
            trainer = torch_common.Trainer(
                network, loss, learning_rate=LEARNING_RATE, bfloat16=options.accelerator, compile_mode=mode
            )
            side = torch_common.side(f"torch {name} {layout}", trainer, batch["codes"].shape[0], work)
            case.sides.append(side)
