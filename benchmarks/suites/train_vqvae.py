"""VQ-VAE's and VQ-VAE-2's training step, ours against the same networks in torch."""

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
from vaesr.models.vqvae import VQVAE
from vaesr.objectives.vq import vq_autoencoder
from vaesr.training import Player

DATA_VARIANCE = 0.06


def vqvae_case(options: Options, *, levels: int) -> timing.Case:
    """The public code's networks on one fixed batch, codebooks by moving averages.

    Args:
        options: the run's settings.
        levels: 1 is VQ-VAE on 32 x 32 images, 2 is VQ-VAE-2 on 64 x 64 (256 x 256 on an accelerator).

    Returns:
        The case.
    """
    side, batch_size = ((32, 32) if levels == 1 else (64, 8)) if not options.accelerator else (
        (32, 256) if levels == 1 else (256, 32)
    )  # fmt: skip
    base = VQVAE(image_shape=(side, side, 3), levels=levels, initial="normal")
    if options.smoke:
        base = base.clone(image_shape=(16, 16, 3), channels=8, res_channels=4, codes=16, code_dim=4)
        batch_size = 4
    model = base.clone(dtype=jnp.bfloat16) if options.accelerator else base
    batch = {
        "image": jnp.asarray(np.random.default_rng(0).random((batch_size, *base.image_shape), np.float32))
    }
    params, variables = _start(base)
    work = step_flops(vqvae_player(base), "vqvae", params, batch, variables=variables)
    runner = Runner(vqvae_player(model), "vqvae", params, batch, variables=variables)
    kind = "VQ-VAE" if levels == 1 else "VQ-VAE-2"
    name = (
        f"{kind} {base.channels} channels, {base.image_shape[0]} pixels, K={base.codes} D={base.code_dim}, "
        f"batch {batch_size}, Adam, {jnp.dtype(model.dtype).name}"
    )
    case = timing.Case("train", name, [runner.side("vaesr", images=batch_size, work=work)])
    if "torch" in options.peers:
        _add_torch(case, options, base, params, variables, batch, work)
    return case


def vqvae_player(model: VQVAE) -> Player:
    """The objective and optimizer as measured.

    Args:
        model: the network.

    Returns:
        The player; its parameters are named "vqvae".
    """

    def apply(params: Any, variables: Any, images: jax.Array, key: jax.Array, position: Any) -> Any:
        return model.apply(
            {"params": params, **variables},
            images,
            train=True,
            key=key,
            position=position,
            mutable=list(variables),
        )

    return Player(vq_autoencoder(apply, data_variance=DATA_VARIANCE), optax.adam(LEARNING_RATE))


def _start(model: VQVAE) -> tuple[Any, Any]:
    """Parameters in PyTorch's default ranges and random codes, made by numpy: compiling `init` is slow."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.image_shape)))

    def fill(path: Any, leaf: Any) -> jax.Array:
        if path[-1].key == "bias":
            return jnp.zeros(leaf.shape, jnp.float32)
        bound = np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.asarray(rng.uniform(-bound, bound, leaf.shape), jnp.float32)

    def fill_codes(path: Any, leaf: Any) -> jax.Array:
        first = rng.normal(size=leaf.shape) if path[-1].key == "codes" else np.zeros(leaf.shape)
        return jnp.asarray(first, jnp.float32)

    params = jax.tree_util.tree_map_with_path(fill, shapes["params"])
    return params, {"vqvae": {"codebook": jax.tree_util.tree_map_with_path(fill_codes, shapes["codebook"])}}


def _add_torch(
    case: timing.Case, options: Options, model: VQVAE, params: Any, variables: Any,
    batch: dict[str, jax.Array], work: float,
) -> None:  # fmt: skip
    """Check that torch's network is ours, then add both memory formats to the case."""
    if not torch_common.available():
        case.absent.append(("torch", torch_common.ABSENT))
        return
    from benchmarks.peers import torch_vqvae

    torch = torch_common.load(options.threads)
    device = torch_common.device()
    host, codes = jax.tree.map(np.asarray, (params, variables["vqvae"]["codebook"]))
    images = torch.from_numpy(np.array(batch["image"]).transpose(0, 3, 1, 2).copy()).to(device)

    def build(memory_format: Any) -> tuple[Any, Callable[[Any], Any]]:
        network = torch_vqvae.build(model)
        torch_vqvae.load(network, host, codes)
        network = network.to(device, memory_format=memory_format)
        x = images.contiguous(memory_format=memory_format)
        return network, lambda net: torch_vqvae.loss(net, x, DATA_VARIANCE)

    with torch_common.exact(), jax.default_matmul_precision("highest"):
        network, loss = build(torch.contiguous_format)
        with torch.no_grad():
            theirs = network.eval()(images)[0].cpu().numpy().transpose(0, 2, 3, 1)
        trainer = torch_common.Trainer(network.train(), loss, learning_rate=LEARNING_RATE)
        their_losses = [float(trainer.step()) for _ in range(PARITY_STEPS)]
        ours = jax.jit(model.apply)({"params": params, **variables["vqvae"]}, batch["image"]).reconstruction
        runner = Runner(vqvae_player(model), "vqvae", params, batch, variables=variables)
        case.parity = agree(
            np.asarray(ours), theirs, our_losses=runner.losses(PARITY_STEPS), their_losses=their_losses
        )
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    for layout, memory_format in layouts.items():
        for name, mode in torch_common.modes(options):
            network, loss = build(memory_format)
            trainer = torch_common.Trainer(
                network, loss, learning_rate=LEARNING_RATE, bfloat16=options.accelerator, compile_mode=mode
            )
            side = torch_common.side(f"torch {name} {layout}", trainer, batch["image"].shape[0], work)
            case.sides.append(side)
