"""Zero-shot upscaling by ZSSR: for each photo a small network, trained on that photo alone; many at once."""

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
from vaesr.data.fathers import FatherSampler, Views, draw_views, gather_views
from vaesr.imaging import bicubic_kernel, dihedral, dihedral_inverse, downsample, fit_kernel, imresize
from vaesr.inference.tiling import BoundUpscaler
from vaesr.inference.trainings import spread, train_together
from vaesr.inference.upscaling import upscale
from vaesr.models.zssr import ZSSR

UPSCALER = "upscaler"
"""The network's name among players."""
Manner = Literal["ideal", "kernel", "real"]
SMALLEST = 8
"""The least side of an image."""
SIDE = 128
"""Of the views that a network is trained on."""
_KERNEL = 21  # side that kernels are brought to: (a scale of 4 makes them 33)
_WINDOW, _EDGE = 192, 12  # the part by which a training is judged, and what of its rim is not counted
_REAL_NOISE = 0.0125


class _Manner(NamedTuple):
    views: Views
    back_projections: int
    ensemble: bool
    noise: float


# The authors' configurations: the bicubic kernel; one of any shape, under which a photo must not be turned;
# and real photos, with noise.
_MANNERS: dict[Manner, _Manner] = {
    "ideal": _Manner(Views(), 10, True, 0.0),
    "kernel": _Manner(Views(turns=False), 2, False, 0.0),
    "real": _Manner(Views(turns=False, least_scale=0.75, stretch=0.0, shear=0.0), 0, False, _REAL_NOISE),
}


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """An upscaled photo.

    Attributes:
        pixels: `[H * scale, W * scale, 3]` float32 in [0, 1].
        steps: that its training took.
        collections: of the network that was trained for it.
    """

    pixels: np.ndarray
    steps: int
    collections: Any


def zero_shot_training(
    network: ZSSR,
    *,
    optimizer: Callable[[], optax.GradientTransformation],
    policy: objectives.Policy = objectives.Policy(),  # noqa: B008  (immutable)
) -> tuple[Callable[[jax.Array], Any], dict[str, training.Player]]:
    """ZSSR of one image, put together: `init` and `players`, see `vaesr.runs.Experiment`.

    Batches hold the "kernel" `[N, K, K]` that views are made small by, see `objectives.zero_shot`.
    """

    def shrink(images: jax.Array, batch: Any) -> jax.Array:
        return downsample(images, batch["kernel"], network.scale)

    def apply(collections: Any, x_lr: jax.Array) -> jax.Array:
        return network.apply(collections, x_lr)  # type: ignore[return-value]

    def init(key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        params = network.init(key, jnp.zeros((1, 16, 16, 3)))["params"]
        return {UPSCALER: params}, {objectives.POLICY: objectives.start_policy()}

    objective = objectives.zero_shot(apply, shrink, policy=policy, player=UPSCALER)
    player = training.Player(objective, optimizer(), rate=objectives.policy_rate)
    return init, {UPSCALER: player}


def upscale_zero_shot(
    images: Sequence[np.ndarray],
    *,
    scale: int = 2,
    kernels: Sequence[np.ndarray | None] | None = None,
    manner: Manner | None = None,
    noise: float | None = None,
    steps: int = 3000,
    at_once: int = 8,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Iterator[ZeroShot]:
    """Upscales photos each by a network trained on it, as they are done, in the photos' order.

    What becomes of a photo depends on its pixels, its kernel and `seed` alone, not on the others.

    Args:
        images: `[H, W, 3]` uint8 or float in [0, 1], of any sizes.
        scale: 2, 3 or 4.
        kernels: by which each was made small, `[K, K]`, correlated; None is the bicubic kernel.
        manner: "ideal", "kernel" or "real", the authors' configurations; by default "kernel" where kernels
            are given, else "ideal".
        noise: standard deviation of what is added to the small views, in [0, 1]; by default the manner's.
        steps: the most that a training takes.
        at_once: photos of one batch, over all devices.
        seed: of all randomness.
        progress: called with the share that is done.

    Yields:
        One result a photo.

    Raises:
        ValueError: if an image or a kernel is none, or a knob is out of range.
    """
    given = [None] * len(images) if kernels is None else list(kernels)
    if len(given) != len(images):
        raise ValueError(f"kernels must be as many as images, got {len(given)} for {len(images)}.")
    if scale not in (2, 3, 4):
        raise ValueError(f"scale must be 2, 3 or 4, got {scale}.")
    for name, value in (("steps", steps), ("at_once", at_once)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if manner is not None and manner not in _MANNERS:
        raise ValueError(f"manner must be one of {', '.join(_MANNERS)}, got {manner!r}.")
    if noise is not None and not 0 <= noise < 1:
        raise ValueError(f"noise must be from 0 to less than 1, got {noise}.")
    pixels = [_unit(image, number) for number, image in enumerate(images)]
    chosen = [manner or ("ideal" if kernel is None else "kernel") for kernel in given]
    side = max(_KERNEL, 5 * scale + 1 + scale % 2)
    fitted = [_fitted(kernel, side, scale) for kernel in given]
    network = ZSSR(scale=scale)
    for first in range(0, len(pixels), at_once):
        group = range(first, min(first + at_once, len(pixels)))
        results: dict[int, ZeroShot] = {}
        for word in dict.fromkeys(chosen[i] for i in group):
            mine = [i for i in group if chosen[i] == word]
            how = _MANNERS[word] if noise is None else _MANNERS[word]._replace(noise=noise)

            def tell(share: float, done: int = first + len(results), count: int = len(mine)) -> None:
                if progress is not None:
                    progress((done + share * count) / len(pixels))

            found, ends = _train(
                [pixels[i] for i in mine], [fitted[i] for i in mine], network, how, steps, seed, tell
            )
            for place, i in enumerate(mine):
                collections = {"params": jax.tree.map(lambda leaf, place=place: leaf[place], found)}
                result = finish_zero_shot(pixels[i], fitted[i], network, collections, word)
                results[i] = ZeroShot(result, int(ends[place]), collections)
        for i in group:
            yield results[i]


def _unit(image: np.ndarray, number: int) -> np.ndarray:
    if image.ndim != 3 or image.shape[-1] != 3 or min(image.shape[:2]) < SMALLEST:
        raise ValueError(
            f"images[{number}] has shape {image.shape}; expected [H, W, 3] with sides of {SMALLEST} or more."
        )
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 255
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"images[{number}] is {image.dtype}; expected uint8 or floats in [0, 1].")
    return image.astype(np.float32)


def _fitted(kernel: np.ndarray | None, side: int, scale: int) -> np.ndarray:
    """A kernel, by default the bicubic one, centred in an odd side that holds it, of sum 1."""
    given = bicubic_kernel(scale) if kernel is None else np.asarray(kernel)
    largest = max(side, *given.shape) if given.ndim == 2 else side
    found = fit_kernel(given, largest + 1 - largest % 2, scale=scale)
    return found / found.sum()


def _centred(kernel: np.ndarray, side: int) -> np.ndarray:
    """The same kernel with zeros around; all sides are odd, so that the middle stays the middle."""
    around = (side - len(kernel)) // 2
    return np.pad(kernel, around).astype(np.float32)


# --- the trainings ---------------------------------------------------------------------------------------


def _train(
    images: Sequence[np.ndarray],
    own_kernels: Sequence[np.ndarray],
    network: ZSSR,
    how: _Manner,
    steps: int,
    seed: int,
    tell: Callable[[float], None],
) -> tuple[Any, np.ndarray]:
    """Parameters of all networks, with a leading axis, and the steps that each took."""
    program, key = _program(network, how.views), jax.random.key(seed)
    names = [
        zlib.crc32(f"{image.shape}".encode(), zlib.crc32(kernel.tobytes(), zlib.crc32(image.tobytes()))) >> 1
        for image, kernel in zip(images, own_kernels, strict=True)
    ]
    kernels = [_centred(kernel, max(map(len, own_kernels))) for kernel in own_kernels]
    sampler = FatherSampler([[image] for image in images], own=judged(images, kernels, how.noise))
    found, ends = train_together(
        lambda names: program.create(key, names),
        program.run,
        np.array(names, np.int32),
        shared={},
        own=sampler.resident(),
        steps=steps,
        finished=lambda done, left, found: found["done"],
        progress=tell,
    )
    return found["params"], ends


def judged(
    images: Sequence[np.ndarray], kernels: Sequence[np.ndarray], noise: float
) -> dict[str, np.ndarray]:
    """What a batch of `objectives.zero_shot` holds beside views: kernels, noise, and windows.

    `images` are `[H, W, 3]` in [0, 1], `kernels` of one side; all results have a leading axis of trainings.
    """
    windows = np.zeros((len(images), _WINDOW, _WINDOW, 3), np.float32)
    inside = np.zeros((len(images), _WINDOW, _WINDOW), np.float32)
    for number, image in enumerate(images):
        height, width = (min(n, _WINDOW) for n in image.shape[:2])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        windows[number, :height, :width] = image[top : top + height, left : left + width]
        rim = [min(_EDGE, n // 4) if n < _WINDOW else 0 for n in (height, width)]
        inside[number, rim[0] : height - rim[0], rim[1] : width - rim[1]] = 1
    return {
        "kernel": np.stack(kernels).astype(np.float32),
        "noise": np.full(len(images), noise, np.float32),
        "window": windows,
        "inside": inside,
    }


class _Program(NamedTuple):
    create: Callable[..., training.TrainState]
    run: Any


@functools.cache
def _program(network: ZSSR, views: Views) -> _Program:
    """The compiled functions; one compilation for each number of trainings and size of images."""
    init, players = zero_shot_training(network, optimizer=lambda: optax.adam(1e-3))
    side = SIDE // network.scale * network.scale
    step = training.each_step(training.make_train_step(players), in_turn=True)

    @jax.jit
    def create(key: jax.Array, names: jax.Array) -> training.TrainState:
        return training.create_states(init, players, names, key=key)

    def run(states: training.TrainState, shared: Any, own: Any, names: jax.Array, steps: int) -> Any:
        key, place = training.data_key(states.key), jnp.arange(len(names))

        def one(states: training.TrainState, _: None) -> tuple[training.TrainState, None]:
            draw = draw_views(key, states.step, names) | {"training": place}
            view = gather_views(own, draw, scales=(1.0,), side=side, views=views)
            rest = {name: value[:, None] for name, value in own["own"].items()}
            return step(states, {"x_hr": view, **rest, "position": names})[0], None

        states, _ = jax.lax.scan(one, states, None, length=steps)
        return states, {
            "params": states.params[UPSCALER],
            "done": states.variables[objectives.POLICY]["done"],
        }

    return _Program(create, spread(run))


# --- the result ------------------------------------------------------------------------------------------


def finish_zero_shot(
    image: np.ndarray, kernel: np.ndarray, network: ZSSR, collections: Any, manner: Manner
) -> np.ndarray:
    """Upscales a photo with the network that was trained for it.

    Args:
        image: `[H, W, 3]` in [0, 1].
        kernel: `[K, K]`, by which it was made small.
        network: of the training.
        collections: what it takes first.
        manner: "ideal" takes the median over eight turns; "ideal" and "kernel" project back.

    Returns:
        `[H * scale, W * scale, 3]` float32 in [0, 1].

    Source: Shocher et al. 2018 (ZSSR), section 3.2.
    """
    how = _MANNERS[manner]
    net = BoundUpscaler(
        lambda x: _apply(network, collections, x),
        network.scale,
        network.receptive_radius,
        bytes_per_pixel=4 * network.channels * 7 * network.scale**2,
    )
    found = []
    for turn in range(8 if how.ensemble else 1):
        out = upscale(net, np.asarray(dihedral(image, turn)), several_sizes=True)
        straight = np.asarray(dihedral_inverse(out, turn))
        found.append(back_project(straight, image, kernel, network.scale, how.back_projections))
    whole = np.median(np.stack(found), axis=0) if len(found) > 1 else found[0]
    return back_project(whole, image, kernel, network.scale, how.back_projections)


@functools.partial(jax.jit, static_argnums=0)
def _apply(network: ZSSR, collections: Any, x: jax.Array) -> jax.Array:
    return network.apply(collections, x)  # type: ignore[return-value]


def back_project(
    x_sr: np.ndarray, x_lr: np.ndarray, kernel: np.ndarray, scale: int, times: int
) -> np.ndarray:
    """Corrects an enlarged image until it becomes, made small, the image that it was made of.

    Args:
        x_sr: `[H * scale, W * scale, 3]` in [0, 1].
        x_lr: `[H, W, 3]` in [0, 1].
        kernel: `[K, K]`, by which it is made small again.
        scale: factor.
        times: that what is missing is enlarged bicubically and added, and the result clipped.

    Returns:
        float32 `[H * scale, W * scale, 3]`.

    Source: Irani and Peleg 1991; Shocher et al. 2018 (ZSSR), section 3.2.
    """
    if not times:
        return np.asarray(x_sr, np.float32)
    return np.asarray(_back_projected(jnp.asarray(x_sr), jnp.asarray(x_lr), jnp.asarray(kernel, jnp.float32),
                                      scale, times))  # fmt: skip


@functools.partial(jax.jit, static_argnums=(3, 4))
def _back_projected(x_sr: jax.Array, x_lr: jax.Array, kernel: jax.Array, scale: int, times: int) -> jax.Array:
    def once(_: int, y: jax.Array) -> jax.Array:
        missing = x_lr - downsample(y, kernel, scale)
        return jnp.clip(y + imresize(missing, scale, size=y.shape[:2]), 0.0, 1.0)

    return jax.lax.fori_loop(0, times, once, x_sr.astype(jnp.float32))
