"""Upscaling of arrays: tiles, flips, channels, depths."""

import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled_variables import filled
from small_networks import found

from vaesr.imaging import imresize
from vaesr.inference import BoundUpscaler, bind_upscaler, upscale
from vaesr.inference.tiling import auto_tile
from vaesr.inference.upscaling import spread_colour
from vaesr.models import Upscaler
from vaesr.models.edsr import EDSR
from vaesr.models.mdsr import MDSR
from vaesr.models.srcnn import SRCNN
from vaesr.runs import Run, load_run


@pytest.fixture(scope="module")
def run(edsr_folder: pathlib.Path) -> Run:
    """The small EDSR."""
    return load_run(edsr_folder)


def photo(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def nearest(x: Any) -> Any:
    """An upscaler whose result is known."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


@pytest.mark.parametrize("tile", [32, 48, 100])
def test_tiles_give_the_whole_image(run: Run, tile: int) -> None:
    image = photo(141, 95, 3)
    whole = upscale(run, image, tile=0)
    np.testing.assert_allclose(upscale(run, image, tile=tile), whole, atol=1e-5)
    assert whole.shape == (282, 190, 3)


# One network of each class with a single scale, if there is one that doubles.
ONE_OF_EACH = {
    type(model): model
    for model in sorted(found("SMALL_UPSCALERS").values(), key=lambda model: getattr(model, "scale", 0) == 2)
    if isinstance(model, Upscaler)
} | {EDSR: EDSR(scale=2, channels=8, blocks=2, conv_form="direct")}


@pytest.mark.parametrize("how", ["rows", "batch"])
@pytest.mark.parametrize("model", ONE_OF_EACH.values(), ids=lambda model: type(model).__name__)
def test_spread_over_devices_is_one_device(model: Any, how: Any) -> None:
    images = np.random.default_rng(0).random((4, 32, 20, 3)).astype(np.float32)
    tree = filled(model, jnp.asarray(images))
    own = {name: value for name, value in tree.items() if name != "params"}
    run = Run(pathlib.Path("x"), model, {"generator": tree["params"]}, {"generator": own}, {}, 0)
    out = run.spread(how)(images)
    assert len(out.sharding.device_set) == 4
    np.testing.assert_allclose(out, run.apply(images), atol=2e-6)
    # Nothing is gathered: neighbours exchange the rows at their borders, or nothing at all.
    (compiled,) = [value for key, value in run._compiled.items() if key[0] == "spread"]
    text = compiled.lower(run._compiled["everywhere"], images).compile().as_text()
    if isinstance(model, EDSR):
        assert "all-gather" not in text and ("collective-permute" in text) == (how == "rows")


@pytest.mark.slow
def test_tiles_are_spread_over_devices(run: Run) -> None:
    assert bind_upscaler(run).spread is not None and jax.local_device_count() == 4
    image = np.random.default_rng(0).random((50, 41, 3)).astype(np.float32)
    alone = bind_upscaler(run)._replace(spread=None)
    for tile in (0, 8, 16, 100):  # 50 rows are not split in four
        np.testing.assert_allclose(
            upscale(run, image, tile=tile), upscale(alone, image, tile=tile), atol=2e-6
        )
    turned = [upscale(net, image[:48], self_ensemble=True) for net in (run, alone)]
    np.testing.assert_allclose(*turned, atol=2e-6)


def test_a_small_margin_is_blended(run: Run) -> None:
    image = np.random.default_rng(0).random((40, 33, 3)).astype(np.float32)
    whole = upscale(run, image, tile=0)
    np.testing.assert_allclose(upscale(run, image, tile=8, tile_pad=8), whole, atol=1e-5)  # its radius
    errors = [np.abs(upscale(run, image, tile=8, tile_pad=pad) - whole).max() for pad in (1, 4, 7)]
    assert errors[0] > errors[1] > errors[2] > 0
    with pytest.raises(ValueError, match="tile_pad must be a whole number"):
        upscale(run, image, tile_pad=-1)


def test_margins_are_bounded_and_global_networks_may_be_tiled() -> None:
    seen = []

    def network(x):
        seen.append(x.shape[1:3])
        return x.repeat(2, axis=1).repeat(2, axis=2)

    image = np.random.default_rng(0).random((300, 20, 3)).astype(np.float32)
    for net, pad in (
        (BoundUpscaler(network, 2, 349), None), (BoundUpscaler(network, 2, 349), 48),
        (BoundUpscaler(network, 2, None), 48)
    ):  # fmt: skip
        seen.clear()
        out = upscale(net, image, tile=100, tile_pad=pad)
        np.testing.assert_allclose(out, image.repeat(2, axis=0).repeat(2, axis=1), atol=1e-6)
        assert set(seen) == {(100 + 2 * 48, 20)}
    seen.clear()
    upscale(BoundUpscaler(network, 2, 90), image, tile=100)
    assert set(seen) == {(100 + 2 * 90, 20)}
    with pytest.raises(ValueError, match="give tile_pad"):
        upscale(BoundUpscaler(network, 2, None), image, tile=100)


def test_self_ensemble_is_the_mean_of_eight_and_tiles_exactly(run: Run) -> None:
    from vaesr.models.self_ensemble import self_ensemble

    image = photo(37, 52, 3)
    expected = np.clip(self_ensemble(run.apply)(jnp.asarray(image[None]))[0], 0, 1)
    np.testing.assert_allclose(upscale(run, image, self_ensemble=True), expected, atol=1e-5)
    np.testing.assert_allclose(upscale(run, image, tile=16, self_ensemble=True), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (1, 40), (17, 2)])
@pytest.mark.parametrize("tile", [None, 0, 4])
def test_tiny_images(run: Run, size: tuple[int, int], tile: int | None) -> None:
    assert upscale(run, photo(*size, 3), tile=tile).shape == (2 * size[0], 2 * size[1], 3)


@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("kind", [np.float32, np.uint8, np.uint16, jnp.bfloat16])
def test_shape_and_type_are_kept(channels: int, kind: Any) -> None:
    values = 0.1 + 0.8 * photo(6, 5, *([channels] if channels else []))
    top = np.iinfo(kind).max if np.issubdtype(kind, np.integer) else 1
    image = (values * top).astype(kind)
    out = upscale(nearest, image)
    assert out.shape == (12, 10, *image.shape[2:])
    assert out.dtype == (image.dtype if top > 1 else np.float32)
    colour = slice(None) if channels in (0, 1, 3) else slice(0, -1)
    kept = out[::2, ::2] if channels == 0 else out[::2, ::2, colour]
    expected = image if channels == 0 else image[..., colour]
    np.testing.assert_allclose(kept.astype(float), expected.astype(float), atol=1e-3)


def test_alpha_is_bicubic_or_the_network() -> None:
    image = photo(6, 5, 4)
    smooth = np.clip(imresize(image[..., 3:], size=(12, 10)), 0, 1)
    np.testing.assert_allclose(upscale(nearest, image)[..., 3:], smooth, atol=1e-6)
    by_network = upscale(nearest, image, alpha="network")
    np.testing.assert_allclose(by_network[::2, ::2], image, atol=1e-6)
    opaque = np.concatenate([image[..., :3], np.ones((6, 5, 1), np.float32)], axis=2)
    assert (upscale(nearest, opaque)[..., 3] == 1).all()


def test_hidden_colours_do_not_bleed() -> None:
    """A white disc on transparent black must not get a grey rim."""
    image = np.zeros((32, 32, 4), np.float32)
    y, x = np.mgrid[:32, :32]
    image[(y - 16) ** 2 + (x - 16) ** 2 < 80] = 1.0

    def blurry(x: Any) -> Any:
        return imresize(x, 2)

    out = upscale(blurry, image)
    assert out[..., :3][out[..., 3] > 0].min() > 0.999
    spread = spread_colour(image[..., :3], image[..., 3:])
    assert (spread == 1).all()
    empty = np.zeros((4, 4, 4), np.float32)
    assert spread_colour(empty[..., :3], empty[..., 3:]) is not None and (upscale(nearest, empty) == 0).all()


@pytest.mark.parametrize("scale, size", [(1.0, (7, 9)), (3.0, (21, 27)), (1.5, (10, 14)), (0.1, (1, 1))])
def test_other_factors_are_reached(scale: float, size: tuple[int, int]) -> None:
    out = upscale(nearest, photo(7, 9, 4), scale=scale)
    assert out.shape[:2] == size


def test_scales_of_a_multi_scale_network(run: Run) -> None:
    model = MDSR(scales=(2, 3), channels=4, blocks=1)
    many = Run(run.path, model, {"mdsr": {}}, {}, {}, 0)
    assert [bind_upscaler(many, s).scale for s in (None, 2.0, 3)] == [3, 2, 3]
    for scale in (1.0, 2.5, 8.0):
        with pytest.raises(ValueError, match=rf"trained for scale 2 or 3, got {scale:g}; choose one"):
            bind_upscaler(many, scale)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    full = Run(run.path, model, {"mdsr": params}, {}, {}, 0)
    assert upscale(full, photo(5, 6, 3), scale=2.0).shape == (10, 12, 3)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"image": photo(4, 4, 5)}, "image must be"),
        ({"image": photo(4, 0, 3)}, "image must be"),
        ({"image": np.zeros((4, 4, 3), np.int64)}, "image must be"),
        ({"tile": -1}, "tile must be"),
        ({"tile": 2.5}, "tile must be"),
        ({"tile": 8}, "receptive radius"),
        ({"scale": 0}, "scale must be"),
        ({"scale": float("nan")}, "scale must be"),
        ({"alpha": "lanczos"}, "alpha must be"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        upscale(nearest, **({"image": photo(4, 4, 3)} | arguments))


def test_results_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(ValueError, match="not finite"):
        upscale(lambda x: nearest(x) * jnp.nan, photo(4, 4, 3))


def test_a_function_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="must map"):
        upscale(lambda x: x[:, :7], photo(4, 4, 3))


def test_no_more_memory_means_smaller_tiles() -> None:
    shapes: list[int] = []

    def apply(x: Any) -> Any:
        shapes.append(x.shape[1])
        if x.shape[1] > 40:
            raise MemoryError
        return nearest(x)

    net = BoundUpscaler(apply, 2, halo=1)
    image = photo(150, 150, 3)
    np.testing.assert_allclose(upscale(net, image)[::2, ::2], image)
    assert shapes[0] == 150 and shapes[-1] <= 40
    with pytest.raises(MemoryError, match="smaller --tile"):
        upscale(net, image, tile=100)


def test_automatic_tiles_are_of_few_shapes() -> None:
    from vaesr.imaging import plan_tiles

    net = bind_upscaler(Run(pathlib.Path(), EDSR(), {"edsr": {}}, {}, {}, 0))
    assert auto_tile(100, 100, net) is None
    windows = set()
    generator = np.random.default_rng(0)
    for height, width in generator.integers(100, 3000, (200, 2)):
        tile = auto_tile(height, width, net, several_sizes=True)
        assert tile is not None
        rows, columns = (
            plan_tiles(n, side, net.halo or 0) for n, side in zip((height, width), tile, strict=True)
        )
        windows.add((rows[0].stop - rows[0].start, columns[0].stop - columns[0].start))
    assert len(windows) <= 9 and all(h == w for h, w in windows)
    assert auto_tile(20, 3000, net) is None and auto_tile(20, 300_000, net) is not None


@pytest.mark.parametrize("halo", [4, 48, 94])
def test_automatic_tiles_fit_the_memory_and_repeat_few_pixels(
    halo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vaesr.imaging import plan_tiles

    budget = 400_000
    monkeypatch.setattr("vaesr.inference.tiling.memory_budget", lambda: 1000 * budget)
    net = BoundUpscaler(lambda x: x, 1, halo, bytes_per_pixel=1000)

    def pixels(height: int, width: int, tile: tuple[int, int]) -> tuple[int, int]:
        """Of one window, and of all."""
        rows, columns = (plan_tiles(n, side, halo) for n, side in zip((height, width), tile, strict=True))
        window = (rows[0].stop - rows[0].start) * (columns[0].stop - columns[0].start)
        return window, window * len(rows) * len(columns)

    sizes = np.random.default_rng(0).integers(20, 5000, (100, 2)).tolist()
    sizes += [(1080, 1920), (3000, 4000), (8, 60_000), (60_000, 8), (20_000, 30_000)]
    for height, width in sizes:
        tile = auto_tile(height, width, net)
        if tile is None:
            assert height * width <= budget
            continue
        window, total = pixels(height, width, tile)
        assert window <= budget
        # Never more than square windows of as much memory, tried one by one; but for rounding to eights.
        squares = [(side - 2 * halo,) * 2 for side in range(2 * halo + 64, 633, 8)]
        tried = [pixels(height, width, square) for square in squares]
        assert total <= 1.02 * min(all_ for one, all_ in tried if one <= budget)
        assert min(tile) >= min(16, height, width)


def test_turned_images_get_turned_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaesr.inference.tiling.memory_budget", lambda: 64 * 64)
    shapes = set()

    def apply(x: Any) -> Any:
        shapes.add(x.shape[1:3])
        return np.asarray(x).repeat(2, axis=1).repeat(2, axis=2)

    image = photo(60, 200, 3)
    out = upscale(BoundUpscaler(apply, 2, halo=2, bytes_per_pixel=1), image, self_ensemble=True)
    np.testing.assert_allclose(out[::2, ::2], image, atol=1e-6)
    assert len(shapes) == 2 and {shape[::-1] for shape in shapes} == shapes


def test_a_network_with_a_pair_of_widths() -> None:
    model = SRCNN(kernels=(3, 1, 3), widths=(8, 4))
    params = filled(model, jnp.zeros((1, 12, 12, 3)))["params"]
    run = Run(pathlib.Path("net"), model, {"generator": params}, {}, {"model": {}}, 0)
    assert bind_upscaler(run).bytes_per_pixel > 4 * 8
    image = photo(9, 11, 3)
    wanted = np.clip(np.asarray(run.apply(image[None]))[0], 0, 1)
    np.testing.assert_allclose(upscale(run, image), wanted, atol=1e-6)


_EIGHT = """
import jax, jax.numpy as jnp, numpy as np, pathlib
from vaesr.runs import Run
from vaesr.inference import upscale
from vaesr.models.rrdb import RRDBNet

assert jax.local_device_count() == 8
model = RRDBNet(channels=8, growth=4, blocks=1)
params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
params = jax.tree.map(lambda leaf: leaf + 0.02, params)
run = Run(pathlib.Path("net"), model, {"generator": params}, {}, {"model": {}}, 0)
image = np.random.default_rng(0).random((64, 40, 3), np.float32)
one = np.clip(np.asarray(run.apply(image[None]))[0], 0, 1)
rows = np.asarray(run.spread("rows")(image[None]))
assert np.abs(np.clip(rows[0], 0, 1) - one).max() < 1e-5
text = run._compiled[("spread", "rows", ())].lower(run.collections, image[None]).compile().as_text()
assert "collective-permute" in text and "all-gather" not in text  # neighbours' rows, not the image
for tile in (None, 0, 16):  # by rows, and in tiles on all devices
    assert np.abs(upscale(run, image, tile=tile) - one).max() < 1e-5, tile
print("equal")
"""


@pytest.mark.slow
def test_eight_devices_are_one() -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run([sys.executable, "-c", _EIGHT], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "equal", done.stderr
