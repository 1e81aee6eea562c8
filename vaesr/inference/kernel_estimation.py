"""Blur kernels of photos by KernelGAN: many photos, and several trainings for each, in one program."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vaesr import objectives, training
from vaesr.data.self_patches import SelfPatchSampler, draw_places, gather_crops, has_gradients
from vaesr.imaging import bicubic_kernel, clean_kernel, fit_kernel, kernel_of_twice, to_float
from vaesr.models.kernelgan import KernelDiscriminator, KernelGenerator

KernelMode = Literal["fixed", "compat"]
GENERATOR, DISCRIMINATOR = "generator", "discriminator"
LARGE = 64
"""Side of the crops that the generator shrinks: the least that a photo's sides must be."""
# Steps of one dispatch, after which it is seen which trainings have come to their end.
_DISPATCH = 50
# A kernel that has moved by less than this, as a PSNR, in so many steps will not move any more.
_STILL_DB, _STILL_STEPS = 50.0, 250
# The sides of kernels that are given out, by scale; as the authors' code's mostly are.
SIDES = {2: 17, 4: 33}
_MODES: dict[str, dict[str, Any]] = {
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
        seeds: `[S, 17, 17]`, what each of the trainings found, for scale 2.
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

    `mode` is "compat", as the authors' code is, or "fixed", with its channels apart; `optimizer` makes each
    player's.
    """

    def scores(params: Any, variables: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        return discriminator.apply({"params": params, **variables}, images, train=True, mutable=["spectral"])

    def compose(collections: Any) -> jax.Array:
        return generator.apply(collections, method="kernel")  # type: ignore[return-value]

    chosen = _MODES[mode]
    found = objectives.kernel_gan(
        compose, scores, scale=generator.stride, players=(GENERATOR, DISCRIMINATOR), **chosen
    )

    def init(key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        of_generator, of_discriminator = jax.random.split(key)
        crop = jnp.zeros((1, LARGE, LARGE, 3))
        theirs = dict(discriminator.init(of_discriminator, crop))
        params = {
            GENERATOR: generator.init(of_generator, crop, method="layered")["params"],
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
    mode: KernelMode = "fixed",
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
        mode: "fixed", or "compat", which does what the authors' code does.
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
    for number, image in enumerate(images):
        _check(image, number)
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
                yield vote(kernels, scale=scale, mode=mode, steps=ends)
        tell(1.0)


def _check(image: np.ndarray, number: int) -> None:
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"images[{number}] has shape {image.shape} and type {image.dtype}; expected [H, W, 3] uint8."
        )
    height, width = image.shape[:2]
    if min(height, width) < LARGE:
        raise ValueError(
            f"images[{number}] is {width}x{height}; blur can be told from {LARGE}x{LARGE} pixels on."
        )


def _bicubic(scale: int, seeds: int, note: str) -> KernelEstimate:
    small = fit_kernel(bicubic_kernel(2), SIDES[2])
    kernel = fit_kernel(bicubic_kernel(scale), SIDES[scale], scale=scale)
    each = np.repeat(small[None], seeds, axis=0)
    return KernelEstimate(kernel / kernel.sum(), each, np.zeros(seeds, int), float("nan"), note)


# --- the trainings ---------------------------------------------------------------------------------------


def _train(
    images: Sequence[np.ndarray], seeds: int, steps: int, mode: KernelMode, seed: int, margin: int,
    tell: Callable[[float], None],
) -> list[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """Raw kernels `[S, 13, 13]` and the step of each's end, of every image."""
    owners = np.repeat(np.arange(len(images)), seeds)
    # A training is told from others by its image's pixels and its number.
    names = np.array(
        [
            zlib.crc32(f"{image.shape} {i}".encode(), zlib.crc32(image.tobytes())) >> 1
            for image in images
            for i in range(seeds)
        ],
        np.int32,
    )
    sampler = SelfPatchSampler(images, owners, large=LARGE, margin=margin)
    devices = jax.local_device_count()
    mesh = training.make_mesh(devices=jax.local_devices())
    source = {name: jnp.asarray(value) for name, value in sampler.resident().items()}
    program = _program(mode)
    rows = np.arange(len(owners))
    rows = np.resize(rows, -(-len(rows) // devices) * devices)  # of the whole batch; some twice
    place = training.batch_sharding(mesh)
    names_of, owners_of = (jax.device_put(values[rows], place) for values in (names, owners))
    states = program.create(jax.random.key(seed), names_of)
    states = jax.device_put(states, training.state_shardings(states, mesh))
    kernels = np.zeros((len(owners), 13, 13))
    ends = np.full(len(owners), steps)
    running, sparse_since = np.ones(len(owners), bool), np.full(len(owners), steps)
    history: list[np.ndarray] = []
    for done in range(0, steps, _DISPATCH):
        count = min(_DISPATCH, steps - done)
        states, now, sparse = program.run(states, {**source, "owners": owners_of}, names_of, count)
        kernels_now, sparse_now = np.array(kernels), np.zeros(len(owners), bool)
        kernels_now[rows], sparse_now[rows] = np.asarray(now), np.asarray(sparse)
        kernels[running] = kernels_now[running]
        sparse_since = np.where(sparse_now, np.minimum(sparse_since, done + count), sparse_since)
        history.append(kernels.copy())
        back = _STILL_STEPS // _DISPATCH
        if len(history) > back:
            moved = np.square(history[-1] - history[-1 - back]).mean((1, 2))
            long = done + count - sparse_since >= _STILL_STEPS
            still = running & long & (moved < 10 ** (-_STILL_DB / 10))
            ends[still], running[still] = done + count, False
        tell((done + count) / steps if running.any() else 1.0)
        if not running.any():
            break
        left = np.flatnonzero(running)
        size = -(-len(left) // devices) * devices
        if size <= len(rows) // 2:
            kept = np.resize(left, size)
            where = np.array([int(np.flatnonzero(rows == row)[0]) for row in kept])
            states, rows = _take(states, where, mesh), kept
            names_of, owners_of = (jax.device_put(values[rows], place) for values in (names, owners))
    shape = (len(images), seeds)
    return list(zip(kernels.reshape(*shape, 13, 13), ends.reshape(shape), strict=True))


def _take(states: training.TrainState, where: np.ndarray, mesh: Any) -> training.TrainState:
    """Some of the trainings."""
    own = dataclasses.replace(states, step=None, key=None)  # type: ignore[arg-type]
    own = jax.tree.map(lambda leaf: leaf[jnp.asarray(where)], own)
    whole = dataclasses.replace(own, step=states.step, key=states.key)
    return jax.device_put(whole, training.state_shardings(whole, mesh))


@dataclasses.dataclass(frozen=True)
class _Program:
    create: Callable[..., training.TrainState]
    run: Callable[..., Any]


@functools.cache
def _program(mode: KernelMode) -> _Program:
    """The compiled functions; one compilation for each number of trainings and size of images."""
    generator = KernelGenerator()
    init, players = kernel_training(generator, KernelDiscriminator(), mode=mode, optimizer=_adam)
    step = training.each_step(training.make_train_step(players))

    @jax.jit
    def create(key: jax.Array, names: jax.Array) -> training.TrainState:
        return training.create_states(init, players, names, key=key)

    @functools.partial(jax.jit, static_argnums=3, donate_argnums=0)
    def run(states: training.TrainState, source: Any, names: jax.Array, count: int) -> Any:
        key = training.data_key(states.key)

        def one(states: training.TrainState, _: None) -> tuple[training.TrainState, None]:
            draw = draw_places(key, states.step, names) | {"training": jnp.arange(len(names))}
            crops = gather_crops(source, draw, large=LARGE, small=26)
            batch = {"x_g": to_float(crops["large"]), "x_d": to_float(crops["small"]), "position": names}
            return step(states, batch)[0], None

        states, _ = jax.lax.scan(one, states, None, length=count)
        kernels = jax.vmap(lambda params: generator.apply({"params": params}, method="kernel"))(
            states.params[GENERATOR]
        )
        return states, kernels, states.variables[objectives.SCHEDULE]["sparse"]

    return _Program(create, run)


# --- the vote --------------------------------------------------------------------------------------------


def vote(
    kernels: np.ndarray, *, scale: int = 2, mode: KernelMode = "fixed", steps: np.ndarray | None = None
) -> KernelEstimate:
    """One kernel of the raw ones `[S, K, K]` of several trainings: their mean without those far from others.

    `mode` says how each is cleaned; `steps` `[S]` is told on.
    """
    ends = np.zeros(len(kernels), int) if steps is None else steps
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
    return KernelEstimate(kernel, each, ends, agreement, note)
