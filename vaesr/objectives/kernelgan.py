"""KernelGAN's two objectives: a linear generator against a critic of patches, one image at a time."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from vaesr.distributions.keys import example_keys, example_normal
from vaesr.imaging.blur import correlate
from vaesr.imaging.resize import imresize
from vaesr.losses.kernel_priors import (
    kernel_boundary_loss,
    kernel_centre_loss,
    kernel_sparsity_loss,
    kernel_sum_loss,
)
from vaesr.objectives.objective import (
    Aux,
    Batch,
    Objective,
    Params,
    collections,
    own_variables,
    replace_variables,
)

Array = jax.Array
SCHEDULE = "schedule"
"""The name in `variables` of where the weights of the losses have come to."""

Scores = Callable[[Any, Any, Array], tuple[Array, Any]]
"""`(params, variables, images) -> (scores in (0, 1), new variables)`, in training."""

_ADVERSARIAL, _SUM, _BOUNDARIES = 1.0, 0.5, 0.5
_CENTRE, _SPARSE = 1.0, 5.0  # once the generator has left the bicubic kernel
_NOISE = 1 / 255


class KernelSchedule(NamedTuple):
    """How the generator leaves the bicubic kernel that it begins with.

    Attributes:
        start: the weight of the bicubic loss at first.
        least: what it falls to.
        factor: that it is divided by.
        every: steps from one division to the next.
        reached: the bicubic loss below which, three steps in a row, the divisions begin.
        latest: step at which they begin however large the loss is.
        sparse_below: weight of the bicubic loss below which centre and sparsity count.
    """

    start: float = 5.0
    least: float = 5e-6
    factor: float = 100.0
    every: int = 200
    reached: float = 0.4
    latest: int = 1 << 30
    sparse_below: float = 5e-3


def start_kernel_schedule(schedule: KernelSchedule) -> dict[str, Array]:
    """Begins the schedule of one image.

    Args:
        schedule: how it goes.

    Returns:
        What `variables["schedule"]` is before the first step: "bicubic", the weight; "near", for how many
        steps in a row the loss has been small; "similar" and "sparse", whether the phases have begun.
    """
    return {
        "bicubic": jnp.float32(schedule.start),
        "near": jnp.int32(0),
        "similar": jnp.bool_(False),
        "sparse": jnp.bool_(False),
    }


def kernel_gan(
    kernel: Callable[[Any], Array],
    scores: Scores,
    *,
    scale: int = 2,
    channels: Literal["mixed", "apart"] = "apart",
    schedule: KernelSchedule = KernelSchedule(),  # noqa: B008  (immutable)
    players: tuple[str, str] = ("generator", "discriminator"),
) -> dict[str, Objective]:
    """Trains a linear generator, given as one kernel, to shrink an image into patches like its own.

    The generator moves first; the discriminator then sees what the moved generator makes. Batches hold
    "x_g" `[N, 64, 64, 3]`, what the generator shrinks, and "x_d" `[N, 26, 26, 3]`, what the discriminator
    takes for real, crops of one image in [0, 1]. Noise of one grey level is added to real patches and, as in
    the authors' code, of half a level to the generated ones.

    Args:
        kernel: `collections -> [K, K]`, all of the generator as one kernel to be correlated.
        scores: the discriminator.
        scale: that the generator shrinks by.
        channels: what the bicubic reduction that it begins with is: "apart", each colour's own; "mixed", the
            sum of all three for each, what the authors' code does.
        schedule: of the losses' weights; `reached` is in the unit of the loss, which "mixed" makes some nine
            times as large.
        players: the names of generator and discriminator.

    Returns:
        The two objectives, in the order of their updates. The generator's metrics are the parts of its loss,
        unweighted, and "bicubic_weight"; the discriminator's are its mean scores.

    Raises:
        ValueError: if `channels` is another word.

    Source: Bell-Kligler et al. 2019 (KernelGAN), equations 2 to 4 and section 4; the authors' code.
    """
    if channels not in ("mixed", "apart"):
        raise ValueError(f"channels must be mixed or apart, got {channels!r}.")
    by_generator, by_discriminator = players

    def of_generator(
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key
        k = kernel(collections(params, variables, by_generator))
        # In the network's range, [-1, 1].
        shrunk = correlate(2 * batch["x_g"] - 1, k, stride=scale)
        own = own_variables(variables, by_discriminator)
        score, own = scores(params[by_discriminator], own, (shrunk + 1) / 2)
        now, each = variables[SCHEDULE], k[None]
        parts = {
            "adversarial": jnp.abs(score - 1).mean(),  # equation 3, with the authors' L1
            "bicubic_loss": jnp.square(shrunk - _bicubic(batch["x_g"], shrunk, scale, channels)).mean(),
            "sum": kernel_sum_loss(each)[0],
            "boundaries": kernel_boundary_loss(each)[0],
            "centre": kernel_centre_loss(each, scale=scale)[0],
            "sparsity": kernel_sparsity_loss(each)[0],
        }
        late = now["sparse"].astype(jnp.float32)
        loss = (
            _ADVERSARIAL * parts["adversarial"]
            + now["bicubic"] * parts["bicubic_loss"]
            + _SUM * parts["sum"]
            + _BOUNDARIES * parts["boundaries"]
            + late * (_CENTRE * parts["centre"] + _SPARSE * parts["sparsity"])
        )
        moved = replace_variables(variables, by_discriminator, own)
        moved = {**moved, SCHEDULE: _moved(schedule, now, parts["bicubic_loss"], step)}
        metrics = {name: value for name, value in parts.items() if name != "sum"}
        return loss, Aux(metrics | {"kernel_sum": k.sum(), "bicubic_weight": now["bicubic"]}, moved)

    def of_discriminator(
        params: Params, variables: Any, batch: Batch, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del step
        k = kernel(collections(params, variables, by_generator))
        fake = (correlate(2 * batch["x_g"] - 1, k, stride=scale) + 1) / 2
        of_real, of_fake = (example_keys(one, batch["position"]) for one in jax.random.split(key))
        real = batch["x_d"] + _NOISE * example_normal(of_real, batch["x_d"].shape[1:])
        fake = fake + _NOISE / 2 * example_normal(of_fake, fake.shape[1:])
        own = own_variables(variables, by_discriminator)
        on_real, own = scores(params[by_discriminator], own, real)
        on_fake, own = scores(params[by_discriminator], own, fake)
        loss = (jnp.abs(on_real - 1).mean() + jnp.abs(on_fake).mean()) / 2
        metrics = {"real_score": on_real.mean(), "fake_score": on_fake.mean()}
        return loss, Aux(metrics, replace_variables(variables, by_discriminator, own))

    return {by_generator: of_generator, by_discriminator: of_discriminator}


def _bicubic(x: Array, like: Array, scale: int, channels: str) -> Array:
    """What the bicubic reduction of `[N, H, W, 3]`, in [-1, 1], is where the generator's output `like` is."""
    small = imresize(2 * x - 1, 1 / scale)
    before = [(n - m) // 2 for n, m in zip(small.shape[1:3], like.shape[1:3], strict=True)]
    small = small[:, before[0] : before[0] + like.shape[1], before[1] : before[1] + like.shape[2]]
    if channels == "mixed":
        small = jnp.broadcast_to(small.sum(axis=-1, keepdims=True), small.shape)
    return jax.lax.stop_gradient(small)


def _moved(schedule: KernelSchedule, now: dict[str, Array], loss: Array, step: Array) -> dict[str, Array]:
    """The schedule after a step: nothing in the first; then a phase, and divisions at fixed steps."""
    begun = step > 0
    small = loss < schedule.reached
    near = jnp.where(begun & ~now["similar"], jnp.where(small, now["near"] + 1, 0), now["near"])
    similar = now["similar"] | (near >= 3) | (step >= schedule.latest)
    divided = now["similar"] & begun & (step % schedule.every == 0)
    weight = jnp.where(divided, jnp.maximum(now["bicubic"] / schedule.factor, schedule.least), now["bicubic"])
    sparse = now["sparse"] | (divided & (weight < schedule.sparse_below))
    return {"bicubic": weight, "near": near, "similar": similar, "sparse": sparse}
