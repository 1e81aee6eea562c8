"""Blur kernels of photos by KernelGAN: many photos, and several trainings for each, in one program."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vaesr import objectives, training
from vaesr.data.self_patches import SelfPatchSampler, draw_places, gather_crops, has_gradients
from vaesr.imaging import (
    bicubic_kernel,
    clean_kernel,
    estimate_spread,
    fit_kernel,
    gaussian_of,
    kernel_covariance,
    kernel_of_twice,
    to_float,
)
from vaesr.inference.trainings import DISPATCH, spread, train_together
from vaesr.models.kernelgan import KernelDiscriminator, KernelGenerator

KernelMode = Literal["best", "fixed", "compat"]
GENERATOR, DISCRIMINATOR = "generator", "discriminator"
LARGE = 64
"""Side of the crops that the generator shrinks: the least that a photo's sides must be."""
_SMALL = 26  # of what the critic sees
# A kernel that has moved by less than this, as a PSNR, in so many steps will not move any more.
_STILL_DB, _STILL_STEPS = 50.0, 250
# The sides of kernels that are given out, by scale; as the authors' code's mostly are.
SIDES = {2: 17, 4: 33}
_MODES: dict[str, dict[str, Any]] = {
    "best": {},  # of which the trainings are those of "fixed"

    # Each colour is compared with its own reduction, and the generator leaves it by step 500 in any case.
    "fixed": {
        "channels": "apart", "schedule": objectives.KernelSchedule(reached=0.005, latest=500),
    },
    "compat": {"channels": "mixed", "schedule": objectives.KernelSchedule()},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class KernelEstimate:
    """What is known of a photo's blur.

    Attributes:
        kernel: float64 `[17, 17]` (scale 2) or `[33, 33]` (scale 4) of sum 1, to be correlated; its centre
            of mass is where `vaesr.imaging.wanted_centre` says.
        seeds: `[S, 17, 17]`, what the trainings found, for scale 2, without those that went wrong.
        steps: `[S]`, after how many steps each was finished.
        agreement_db: PSNR between the trainings' kernels, in the mean over pairs; NaN of fewer than two.
        note: what had to be done otherwise, "" where nothing.
    """

    kernel: np.ndarray
    seeds: np.ndarray
    steps: np.ndarray
    agreement_db: float
    note: str = ""


def kernel_training(
    generator: KernelGenerator,
    discriminator: KernelDiscriminator,
    *,
    mode: KernelMode,
    optimizer: Callable[[], optax.GradientTransformation],
) -> tuple[Callable[[jax.Array], Any], dict[str, training.Player]]:
    """KernelGAN of one image, put together: `init` and `players`, see `vaesr.runs.Experiment`.

    `mode` is "compat", as the authors' code is, or "fixed" (and "best"), with its channels apart; `optimizer`
    makes each player's.
    """

    def scores(params: Any, variables: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        return discriminator.apply({"params": params, **variables}, images, train=True, mutable=["spectral"])

    def compose(collections: Any) -> jax.Array:
        return generator.apply(collections, method="kernel")  # type: ignore[return-value]

    chosen = _MODES["fixed" if mode == "best" else mode]
    found = objectives.kernel_gan(
        compose, scores, scale=generator.stride, players=(GENERATOR, DISCRIMINATOR), **chosen
    )

    def init(key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        of_generator, of_discriminator = jax.random.split(key)
        crop = jnp.zeros((1, LARGE, LARGE, 3))
        theirs = dict(discriminator.init(of_discriminator, crop))
        params = {
            GENERATOR: generator.init(of_generator, method="kernel")["params"],
            DISCRIMINATOR: theirs.pop("params"),
        }
        schedule = objectives.start_kernel_schedule(chosen["schedule"])
        return params, {DISCRIMINATOR: theirs, objectives.SCHEDULE: schedule}

    players = {name: training.Player(objective, optimizer()) for name, objective in found.items()}
    return init, players


def _adam() -> optax.GradientTransformation:
    """The authors': the learning rate is divided by ten every 750 steps."""
    return optax.adam(optax.exponential_decay(2e-4, 750, 0.1, staircase=True), b1=0.5)


def estimate_kernels(
    images: Sequence[np.ndarray],
    *,
    scale: int = 2,
    seeds: int = 4,
    steps: int = 3000,
    mode: KernelMode = "best",
    at_once: int = 16,
    seed: int = 0,
    margin: int = 10,
    progress: Callable[[float], None] | None = None,
) -> Iterator[KernelEstimate]:
    """Estimates the kernels by which photos were made smaller, as they are done, in the photos' order.

    Trainings whose kernel moves no more have come to their end; when half of a batch have, they leave it.
    What is found of a photo depends on its pixels and `seed` alone, not on the others.

    Args:
        images: `[H, W, 3]` uint8, of any sizes from 64 pixels a side.
        scale: 2, or 4: the kernel of shrinking twice.
        seeds: trainings for each photo, which vote.
        steps: of each training, at most.
        mode: "compat" does what the authors' code does; "fixed" keeps the colours apart, so that saturated
            ones come to an end too, and cuts less of the kernels off; "best" takes that for what is known
            beforehand, asks the photo's spectrum how wide its blur is in every direction, and gives the
            Gaussian that is so wide.
        at_once: trainings of one batch, over all devices.
        seed: of all randomness.
        margin: pixels of every edge that are not looked at.
        progress: called with the share that is done.

    Yields:
        One estimate a photo; of one that shows nothing, the bicubic kernel.

    Raises:
        ValueError: if an image has another shape or type, or a knob is out of range.
    """
    if scale not in SIDES:
        raise ValueError(f"scale must be {' or '.join(map(str, SIDES))}, got {scale}.")
    for name, value in (("seeds", seeds), ("steps", steps), ("at_once", at_once)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}.")
    for image in images:
        check_photo(image)
    each = max(1, at_once // seeds)
    for first in range(0, len(images), each):
        some = images[first : first + each]
        shown = [image for image in some if has_gradients(image)]

        def tell(share: float, first: int = first, count: int = len(some)) -> None:
            if progress is not None:
                progress((first + share * count) / len(images))

        found = iter(_train(shown, seeds, steps, mode, seed, margin, tell) if shown else ())
        for image in some:
            if not has_gradients(image):
                yield _bicubic(scale, seeds, "nothing to see: the bicubic kernel")
            else:
                kernels, ends = next(found)
                yield vote(kernels, scale=scale, mode=mode, steps=ends, image=image)
        tell(1.0)


def check_photo(image: np.ndarray) -> None:
    """Refuses what no kernel can be estimated of.

    Args:
        image: `[H, W, 3]` uint8, of 64 pixels and more a side.

    Raises:
        ValueError: if it is not such.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image has shape {image.shape} and type {image.dtype}; expected [H, W, 3] uint8.")
    height, width = image.shape[:2]
    if min(height, width) < LARGE:
        raise ValueError(f"is {width}x{height}; its blur can be told from {LARGE}x{LARGE} pixels on")


def _bicubic(scale: int, seeds: int, note: str) -> KernelEstimate:
    small = fit_kernel(bicubic_kernel(2), SIDES[2])
    kernel = fit_kernel(bicubic_kernel(scale), SIDES[scale], scale=scale)
    each = np.repeat(small[None], seeds, axis=0)
    return KernelEstimate(kernel / kernel.sum(), each, np.zeros(seeds, int), float("nan"), note)


# --- the trainings ---------------------------------------------------------------------------------------


def _train(
    images: Sequence[np.ndarray],
    seeds: int,
    steps: int,
    mode: KernelMode,
    seed: int,
    margin: int,
    tell: Callable[[float], None],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Raw kernels `[S, 13, 13]` and the step of each's end, of every image."""
    owners = np.repeat(np.arange(len(images)), seeds)
    # A training is told from others by its image's pixels and its number.
    names = [zlib.crc32(f"{image.shape} {i}".encode(), zlib.crc32(image.tobytes())) >> 1
             for image in images for i in range(seeds)]  # fmt: skip
    source = dict(SelfPatchSampler(images, owners, large=LARGE, margin=margin).resident())
    program, key = _program(mode), jax.random.key(seed)
    back = _STILL_STEPS // DISPATCH
    history: list[np.ndarray] = []
    sparse_since = np.full(len(owners), steps)

    def finished(done: int, left: np.ndarray, found: Any) -> np.ndarray:
        kernels = history[-1].copy() if history else np.zeros((len(owners), *found["kernel"].shape[1:]))
        kernels[left] = found["kernel"]
        history.append(kernels)
        begun = left[found["sparse"]]
        sparse_since[begun] = np.minimum(sparse_since[begun], done)
        if len(history) <= back:
            return np.zeros(len(left), bool)
        moved = np.square(history[-1] - history[-1 - back]).mean((1, 2))[left]
        return (done - sparse_since[left] >= _STILL_STEPS) & (moved < 10 ** (-_STILL_DB / 10))

    found, ends = train_together(
        lambda names: program.create(key, names),
        program.run,
        np.array(names, np.int32),
        shared=source,
        own={"owner": owners},
        steps=steps,
        finished=finished,
        progress=tell,
    )
    kernels = found["kernel"].astype(np.float64)
    shape = (len(images), seeds)
    return list(zip(kernels.reshape(*shape, *kernels.shape[1:]), ends.reshape(shape), strict=True))


class _Program(NamedTuple):
    create: Callable[..., training.TrainState]
    run: Any


@functools.cache
def _program(mode: KernelMode) -> _Program:
    """The compiled functions; one compilation for each number of trainings and size of images."""
    generator = KernelGenerator()
    init, players = kernel_training(generator, KernelDiscriminator(), mode=mode, optimizer=_adam)
    # One after the other, so that on CPUs no photo's company shows in its kernel: a GAN's training makes much
    # of a rounding. Batched it would be a fifth faster.
    step = training.each_step(training.make_train_step(players), in_turn=True)

    @jax.jit
    def create(key: jax.Array, names: jax.Array) -> training.TrainState:
        return training.create_states(init, players, names, key=key)

    def run(states: training.TrainState, shared: Any, own: Any, names: jax.Array, steps: int) -> Any:
        key, source = training.data_key(states.key), {**shared, "owners": own["owner"]}

        def one(states: training.TrainState, _: None) -> tuple[training.TrainState, None]:
            draw = draw_places(key, states.step, names) | {"training": jnp.arange(len(names))}
            crops = gather_crops(source, draw, large=LARGE, small=_SMALL)
            batch = {"x_g": to_float(crops["large"]), "x_d": to_float(crops["small"]), "position": names}
            return step(states, batch)[0], None

        states, _ = jax.lax.scan(one, states, None, length=steps)
        kernels = jax.vmap(lambda params: generator.apply({"params": params}, method="kernel"))(
            states.params[GENERATOR]
        )
        return states, {"kernel": kernels, "sparse": states.variables[objectives.SCHEDULE]["sparse"]}

    return _Program(create, spread(run))


# --- the vote --------------------------------------------------------------------------------------------


def vote(
    kernels: np.ndarray,
    *,
    scale: int = 2,
    mode: KernelMode = "fixed",
    steps: np.ndarray | None = None,
    image: np.ndarray | None = None,
) -> KernelEstimate:
    """Makes one kernel of those of several trainings: their mean without those far from the others.

    Args:
        kernels: `[S, K, K]`, the generators' for scale 2.
        scale: 2 or 4.
        mode: see `estimate_kernels`; "best" needs the image.
        steps: `[S]`, told on.
        image: `[H, W, 3]` uint8, which the kernels are of.

    Returns:
        The estimate.
    """
    ends = np.zeros(len(kernels), int) if steps is None else steps
    # The authors' 40 cut the tails off: their kernels are a third too narrow.
    entries = 40 if mode == "compat" else 80
    cleaned = []
    for kernel in kernels:
        try:
            cleaned.append(fit_kernel(clean_kernel(kernel, entries=entries), SIDES[2]))
        except ValueError:  # a training that has gone wrong
            continue
    if not cleaned:
        return _bicubic(scale, len(kernels), "no training came to a kernel: the bicubic one")
    each = np.stack(cleaned)
    apart = np.square(each[:, None] - each[None]).mean((2, 3))
    middle = np.median(apart, axis=1)
    agreeing = middle <= 4 * np.median(middle)
    kernel = each[agreeing].mean(0)
    kernel = kernel / kernel.sum()
    if scale == 4:
        kernel = fit_kernel(kernel_of_twice(kernel), SIDES[4], scale=4)
        kernel = kernel / kernel.sum()
    pairs = apart[np.triu_indices(len(each), 1)]
    agreement = float(-10 * np.log10(np.maximum(pairs, 1e-12)).mean()) if len(pairs) else float("nan")
    left_out = len(kernels) - int(agreeing.sum())
    note = f"{left_out} of {len(kernels)} trainings left out" if left_out else ""
    voted = KernelEstimate(kernel, each, ends, agreement, note)
    return _by_spectrum(voted, image, scale) if mode == "best" and image is not None else voted


# Bounds of the variances, in squared pixels times the scale, that KernelGAN's kernels are trusted with.
_NARROW, _WIDE = 0.1, 3.0
# How far KernelGAN's variances are from the true ones, in squared pixels times half the scale squared.
_DEVIATION = 1.0


def _by_spectrum(voted: KernelEstimate, image: np.ndarray, scale: int) -> KernelEstimate:
    """The Gaussian as wide as the photo's spectrum says, KernelGAN's kernel being what is known before."""
    values, vectors = np.linalg.eigh(kernel_covariance(np.where(voted.kernel > 0.02 * voted.kernel.max(),
                                                                voted.kernel, 0.0)))  # fmt: skip
    before = (vectors * np.clip(values, _NARROW * scale, _WIDE * scale)) @ vectors.T
    found = estimate_spread(image, scale=scale, prior=before, deviation=_DEVIATION * scale**2 / 4)
    if not found.pairs:
        return voted
    # No wider than the kernel's square holds.
    values, vectors = np.linalg.eigh(found.covariance)
    spread = (vectors * np.minimum(values, (len(voted.kernel) / 6) ** 2)) @ vectors.T
    kernel = gaussian_of(spread, len(voted.kernel), scale=scale)
    return dataclasses.replace(voted, kernel=kernel)
