"""Tiling must equal the whole image."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.imaging import pixel_shuffle, plan_tiles, tiled_apply
from vaesr.imaging.tiles import mirror_to_multiple


def test_every_plan_covers_once_with_its_margins():
    for length in range(1, 41):
        for tile in range(1, 13):
            for halo in range(7):
                spans = plan_tiles(length, tile, halo)
                window = min(length, tile + 2 * halo)
                kept = [pixel for s in spans for pixel in range(s.first, s.last)]
                assert kept == list(range(length))
                for s in spans:
                    assert s.stop - s.start == window
                    assert 0 <= s.start <= s.first < s.last <= s.stop <= length
                    assert s.start == 0 or s.first - s.start >= halo
                    assert s.stop == length or s.stop - s.last >= halo
                fewest = 1 if length == window else -(-(length - 2 * halo) // tile)
                assert len(spans) == fewest


def test_plan_rejects():
    with pytest.raises(ValueError, match="length"):
        plan_tiles(0, 4, 1)
    with pytest.raises(ValueError, match="tile"):
        plan_tiles(4, 0, 1)
    with pytest.raises(ValueError, match="halo"):
        plan_tiles(4, 4, -1)


def conv_net(weights):
    """3x3 convolutions with bias and ReLU, then x2 pixel shuffle: radius = number of convolutions."""

    def apply(x):
        for i, (w, b) in enumerate(weights):
            dims = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims) + b
            x = jax.nn.relu(x) if i < len(weights) - 1 else x
        return pixel_shuffle(x, 2)

    return jax.jit(apply)


def random_net(draw):
    channels = [3, 4, 4, 12]
    return conv_net([(draw((3, 3, i, o)), draw((1, 1, 1, o))) for i, o in itertools.pairwise(channels)])


@pytest.mark.parametrize("tile", [32, 48, 100, (20, 70)])
def test_equals_whole_image_on_odd_sizes(tile):
    rng = np.random.default_rng(0)
    net = random_net(lambda shape: rng.normal(size=shape).astype(np.float32) * 0.4)
    image = rng.random((131, 117, 3), np.float32)
    whole = np.asarray(net(image[None])[0])
    calls = []
    result = tiled_apply(
        net, image, scale=2, tile=tile, halo=3, batch_size=3, progress=lambda *p: calls.append(p)
    )
    assert result.shape == (262, 234, 3)
    np.testing.assert_allclose(result, whole, atol=1e-5)
    tall, wide = tile if isinstance(tile, tuple) else (tile, tile)
    total = len(plan_tiles(131, tall, 3)) * len(plan_tiles(117, wide, 3))
    assert calls[-1] == (total, total)
    too_small = tiled_apply(net, image, scale=2, tile=tile, halo=1)
    assert np.abs(too_small - whole).max() > 1e-3  # the test can fail


def test_is_bitwise_exact_in_integer_arithmetic_and_compiles_once():
    rng = np.random.default_rng(1)
    net = random_net(lambda shape: rng.integers(-2, 3, shape).astype(np.float32))
    image = rng.integers(0, 5, (37, 41, 3)).astype(np.float32)
    whole = np.asarray(net(image[None])[0])
    before = net._cache_size()
    for tile, batch_size in [(7, 4), (7, 4), (1000, 1)]:
        result = tiled_apply(net, jnp.asarray(image), scale=2, tile=tile, halo=3, batch_size=batch_size)
        np.testing.assert_array_equal(result, whole)
    assert net._cache_size() - before == 1  # one tile shape; the whole image's shape was known


def test_small_and_thin_images_run_whole():
    shapes = []

    def double(x):
        shapes.append(x.shape)
        return np.repeat(np.repeat(x, 2, 1), 2, 2)

    for shape in [(1, 1, 1), (5, 9, 2), (3, 40, 1)]:
        image = np.random.default_rng(0).random(shape)
        result = tiled_apply(double, image, scale=2, tile=8, halo=2, batch_size=2)
        np.testing.assert_array_equal(result, double(image[None])[0])
    assert shapes[0] == (1, 1, 1, 1)
    assert (2, 3, 12, 1) in shapes


def test_output_dtype_and_channels_are_those_of_fn():
    image = np.zeros((20, 20, 3), np.float32)
    result = tiled_apply(lambda x: (x[..., :1] + 1).astype(np.uint8), image, scale=1, tile=8, halo=0)
    assert result.dtype == np.uint8
    assert result.shape == (20, 20, 1)
    assert result.min() == result.max() == 1


def test_tiling_rejects():
    image = np.zeros((20, 20, 3), np.float32)
    with pytest.raises(ValueError, match="one image"):
        tiled_apply(lambda x: x, image[None], scale=1, tile=8, halo=0)
    with pytest.raises(ValueError, match="fn must return"):
        tiled_apply(lambda x: x, image, scale=2, tile=8, halo=0)
    with pytest.raises(ValueError, match="batch_size"):
        tiled_apply(lambda x: x, image, scale=1, tile=8, halo=0, batch_size=0)
    with pytest.raises(ValueError, match="scale"):
        tiled_apply(lambda x: x, image, scale=1.5, tile=8, halo=0)


@pytest.mark.parametrize("feather", [1, 3, 4])
@pytest.mark.parametrize("tile", [8, 13])
def test_feathered_weights_add_up_to_one(feather, tile):
    image = np.random.default_rng(0).random((37, 29, 3)).astype(np.float32)
    double = jax.jit(lambda x: x.repeat(2, axis=1).repeat(2, axis=2))
    out = tiled_apply(double, image, scale=2, tile=tile, halo=4, feather=feather)
    np.testing.assert_allclose(out, image.repeat(2, axis=0).repeat(2, axis=1), atol=1e-6)


@pytest.mark.parametrize("feather", [0, 3])
def test_results_are_finished_piece_by_piece(feather):
    image = np.random.default_rng(0).integers(0, 256, (61, 20, 3)).astype(np.float32)
    double = jax.jit(lambda x: x.repeat(2, axis=1).repeat(2, axis=2))
    seen = []

    def finish(part):
        seen.append(part.shape)
        return np.floor(part + 0.5).astype(np.uint8)

    out = tiled_apply(double, image, scale=2, tile=8, halo=4, feather=feather, batch_size=3, finish=finish)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, image.repeat(2, axis=0).repeat(2, axis=1))
    assert sum(shape[0] * shape[1] for shape in seen) == 122 * 40  # every pixel once
    assert max(shape[0] for shape in seen) <= 2 * (8 + 2 * 4)


def test_feathering_leaves_no_line_where_the_halo_is_too_small():
    """What each window sees differs by a constant: without feathering the borders jump by it."""
    image = np.tile(np.linspace(0, 1, 64, dtype=np.float32)[:, None, None], (1, 48, 1))
    own_mean = jax.jit(lambda x: jnp.zeros_like(x) + x.mean(axis=(1, 2), keepdims=True))
    jumps = [
        float(
            np.abs(np.diff(tiled_apply(own_mean, image, scale=1, tile=16, halo=8, feather=f), axis=0)).max()
        )
        for f in (0, 8)
    ]
    assert jumps[0] > 0.2 and jumps[1] < jumps[0] / 12
    for wrong in (-1, 9, 1.5, True):
        with pytest.raises(ValueError, match="feather must be an integer from 0 to halo"):
            tiled_apply(own_mean, image, scale=1, tile=16, halo=8, feather=wrong)


@pytest.mark.slow
def test_windows_begin_at_the_squares_of_an_unshuffling_network():
    """A network that cuts its input into 4x4 squares: only aligned windows see the same squares."""
    import jax

    from vaesr.models.rrdb import RRDBNet

    rng = np.random.default_rng(0)
    image = rng.random((61, 70, 3)).astype(np.float32)
    for scale in (1, 2):
        model = RRDBNet(scale=scale, channels=4, growth=2, blocks=0, conv_form="direct")
        variables = model.init(jax.random.key(0), image[None])
        run = jax.jit(lambda x, model=model, variables=variables: model.apply(variables, x))
        whole = np.asarray(run(image[None]))[0]
        settings = {"scale": scale, "tile": 10, "halo": model.receptive_radius}
        tiled = tiled_apply(run, image, **settings, multiple=model.input_multiple)
        assert tiled.shape == whole.shape
        np.testing.assert_allclose(tiled, whole, atol=1e-5)
    with pytest.raises(ValueError, match="multiple"):
        tiled_apply(run, image, scale=2, tile=10, halo=4, multiple=0)


def test_mirroring_to_a_multiple():
    image = np.arange(30.0).reshape(5, 6, 1)
    out = mirror_to_multiple(image, 4)
    np.testing.assert_array_equal(out[:, :, 0], np.pad(image[..., 0], ((0, 3), (0, 2)), mode="reflect"))
    narrow = mirror_to_multiple(image[:, :1], 4)
    np.testing.assert_array_equal(narrow[:5, :, 0], np.tile(image[:, :1, 0], (1, 4)))
    assert mirror_to_multiple(image, 1) is image
