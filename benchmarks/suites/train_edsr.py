"""EDSR's training step, ours against the same network in torch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from benchmarks.options import Options
from benchmarks.peers import torch_common
from benchmarks.suites.ours import LEARNING_RATE, PARITY_STEPS, Runner, agree, sr_batch, step_flops
from vaesr.models import edsr
from vaesr.objectives.super_resolution import pixel
from vaesr.training import Player


def edsr_case(options: Options, *, paper: bool) -> timing.Case:
    """EDSR x2 on one fixed batch of patches: the step alone, without its data.

    Args:
        options: the run's settings.
        paper: the paper's 32 x 256 network, else the baseline of 16 x 64.

    Returns:
        The case.
    """
    base = edsr.PRESETS["paper_x2" if paper else "baseline_x2"]
    batch_size, patch = (16, 48) if options.accelerator else (4, 48)
    if options.smoke:
        base, batch_size, patch = base.clone(channels=8, blocks=2), 2, 12
    model = base.clone(dtype=jnp.bfloat16) if options.accelerator else base
    batch = sr_batch(base.scale, batch_size, patch)
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
        for name, mode in torch_common.modes(options):
            network, loss = build(memory_format)
            trainer = torch_common.Trainer(
                network, loss, learning_rate=LEARNING_RATE, bfloat16=options.accelerator, compile_mode=mode
            )
            case.sides.append(
                torch_common.side(f"torch {name} {layout}", trainer, batch["x_lr"].shape[0], work)
            )


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
