"""Colour, 8-bit grids, pixel shuffle, patches and symmetries."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.imaging import (
    dihedral,
    dihedral_inverse,
    extract_patches,
    pixel_shuffle,
    pixel_unshuffle,
    quantise,
    rgb_to_y,
    rgb_to_ycbcr,
    to_float,
    to_uint8,
    upsample_nearest,
    ycbcr_to_rgb,
)


@pytest.mark.slow
def test_studio_range():
    black, white = jnp.zeros((1, 1, 3)), jnp.ones((1, 1, 3))
    assert float(rgb_to_y(white)[0, 0, 0]) * 255 == pytest.approx(235, abs=1e-4)
    assert float(rgb_to_y(black)[0, 0, 0]) * 255 == pytest.approx(16, abs=1e-4)
    np.testing.assert_allclose(rgb_to_ycbcr(white)[0, 0] * 255, [235, 128, 128], atol=1e-4)
    blue, red = jnp.array([0.0, 0.0, 1.0]), jnp.array([1.0, 0.0, 0.0])
    assert float(rgb_to_ycbcr(blue)[1]) * 255 == pytest.approx(240, abs=1e-4)
    assert float(rgb_to_ycbcr(red)[2]) * 255 == pytest.approx(240, abs=1e-4)


@pytest.mark.slow
def test_colour_round_trip_and_peer(key):
    color = pytest.importorskip("skimage.color")
    image = jax.random.uniform(key, (2, 4, 5, 3))
    np.testing.assert_allclose(ycbcr_to_rgb(rgb_to_ycbcr(image)), image, atol=1e-6)
    np.testing.assert_allclose(rgb_to_ycbcr(image) * 255, color.rgb2ycbcr(np.asarray(image)), atol=1e-3)
    np.testing.assert_array_equal(jax.jit(rgb_to_y)(image).shape, (2, 4, 5, 1))
    np.testing.assert_allclose(rgb_to_y(image), rgb_to_ycbcr(image)[..., :1], atol=1e-7)
    for convert in (rgb_to_y, rgb_to_ycbcr, ycbcr_to_rgb):
        chex.assert_numerical_grads(lambda x, f=convert: jnp.sum(f(x) ** 2), (image[0, :1, :2],), order=1)
        np.testing.assert_allclose(jax.jit(convert)(image), convert(image), atol=1e-6)
        np.testing.assert_allclose(jax.vmap(convert)(image), convert(image), atol=1e-6)
        assert convert(image.astype(jnp.bfloat16)).dtype == jnp.float32
        with pytest.raises(ValueError, match="three channels"):
            convert(image[..., :1])
        with pytest.raises(TypeError, match="to_float"):
            convert(jnp.zeros((2, 2, 3), jnp.uint8))


@pytest.mark.slow
def test_eight_bit_round_trip_and_half_up():
    levels = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_array_equal(to_uint8(to_float(levels)), levels)
    np.testing.assert_array_equal(quantise(to_float(levels)), to_float(levels))
    assert float(to_float(jnp.array(65535, jnp.uint16))) == 1.0
    # 0.5 / 255 * 255 is exactly one half: up, where rounding half to even would go down.
    np.testing.assert_array_equal(to_uint8(jnp.array([0.5 / 255, -1.0, 2.0, jnp.nan])), [1, 0, 255, 0])
    np.testing.assert_allclose(quantise(jnp.array([0.1, 0.5, 0.9]), bits=1), [0, 1, 1])
    assert np.isnan(quantise(jnp.array(jnp.nan)))
    np.testing.assert_array_equal(jax.grad(lambda x: quantise(x).sum())(jnp.array([0.3, 0.6])), 0)


def test_wrong_kinds_raise():
    with pytest.raises(TypeError, match="float32"):
        to_float(jnp.zeros(3))
    with pytest.raises(TypeError, match="to_float"):
        to_uint8(jnp.zeros(3, jnp.uint8))
    with pytest.raises(TypeError, match="to_float"):
        quantise(jnp.zeros(3, jnp.int32))
    with pytest.raises(ValueError, match="bits"):
        quantise(jnp.zeros(3), bits=0)


def test_pixel_shuffle_order_by_hand():
    x = jnp.arange(8).reshape(1, 1, 8)  # two output channels, factor 2: channel = c * 4 + r_h * 2 + r_w
    expected = np.array([[[0, 4], [1, 5]], [[2, 6], [3, 7]]])
    np.testing.assert_array_equal(pixel_shuffle(x, 2), expected)
    np.testing.assert_array_equal(pixel_unshuffle(expected, 2), x)
    wrong = x.reshape(1, 1, 2, 2, 2).transpose(0, 2, 1, 3, 4).reshape(2, 2, 2)  # (r_h, r_w, c)
    assert not np.array_equal(wrong, expected)


@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_shuffle_equals_torch(factor):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).random((2, 3, 4, 5 * factor**2), np.float32)
    peer = torch.nn.functional.pixel_shuffle(torch.from_numpy(x.transpose(0, 3, 1, 2)), factor)
    result = pixel_shuffle(x, factor)
    np.testing.assert_array_equal(result, peer.numpy().transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(pixel_unshuffle(result, factor), x)
    np.testing.assert_array_equal(pixel_shuffle(x[0], factor), result[0])
    np.testing.assert_array_equal(jax.jit(pixel_shuffle, static_argnums=1)(x, factor), result)


def test_pixel_shuffle_rejects():
    with pytest.raises(ValueError, match="multiple of factor"):
        pixel_shuffle(jnp.zeros((2, 2, 6)), 2)
    with pytest.raises(ValueError, match="3x2"):
        pixel_unshuffle(jnp.zeros((3, 2, 1)), 2)
    with pytest.raises(ValueError, match="at least 1"):
        pixel_shuffle(jnp.zeros((2, 2, 4)), 0)
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        pixel_shuffle(jnp.zeros((4, 4)), 2)


@pytest.mark.parametrize(("size", "stride"), [(3, None), (3, 1), (2, 3), (5, 2)])
def test_patches_equal_slices(size, stride):
    image = np.random.default_rng(0).integers(0, 256, (2, 8, 11, 3), np.uint8)
    patches = np.asarray(jax.jit(lambda x: extract_patches(x, size=size, stride=stride))(image))
    step = stride or size
    assert patches.dtype == np.uint8
    assert patches.shape == (2, (8 - size) // step + 1, (11 - size) // step + 1, size, size, 3)
    for i, j in np.ndindex(patches.shape[1:3]):
        expected = image[:, i * step : i * step + size, j * step : j * step + size]
        np.testing.assert_array_equal(patches[:, i, j], expected)


def test_patches_reject():
    with pytest.raises(ValueError, match="does not fit"):
        extract_patches(jnp.zeros((4, 8, 1)), size=5)
    with pytest.raises(ValueError, match="stride"):
        extract_patches(jnp.zeros((4, 8, 1)), size=2, stride=0)


def test_dihedral_static_indices_form_the_group():
    image = np.arange(2 * 3 * 2).reshape(2, 3, 2)
    results = [np.asarray(dihedral(image, i)) for i in range(8)]
    assert len({(r.shape, r.tobytes()) for r in results}) == 8
    assert [r.shape for r in results] == [(2, 3, 2)] * 4 + [(3, 2, 2)] * 4
    np.testing.assert_array_equal(results[1], image[:, ::-1])
    np.testing.assert_array_equal(results[2], image[::-1])
    np.testing.assert_array_equal(results[4], image.transpose(1, 0, 2))
    for i, result in enumerate(results):
        np.testing.assert_array_equal(dihedral_inverse(result, i), image)
        np.testing.assert_array_equal(dihedral(image, np.int32(i)), result)


def test_dihedral_traced_index_per_image(key):
    images = jax.random.uniform(key, (8, 5, 5, 3))
    indices = jnp.arange(8)
    turned = jax.jit(jax.vmap(dihedral))(images, indices)
    for i in range(8):
        np.testing.assert_array_equal(turned[i], dihedral(images[i], i))
    np.testing.assert_array_equal(jax.jit(jax.vmap(dihedral_inverse))(turned, indices), images)


def test_dihedral_rejects():
    with pytest.raises(ValueError, match="0 to 7"):
        dihedral(jnp.zeros((2, 2, 1)), 8)
    with pytest.raises(ValueError, match="square"):
        jax.jit(dihedral)(jnp.zeros((2, 3, 1)), 1)
    with pytest.raises(ValueError, match="vmap"):
        dihedral(jnp.zeros((4, 2, 2, 1)), jnp.arange(4))
    with pytest.raises(ValueError, match="integer"):
        dihedral(jnp.zeros((2, 2, 1)), 1.0)


def test_grey_is_matlabs_rgb2gray():
    from vaesr.imaging import rgb_to_grey

    x = np.random.default_rng(0).uniform(size=(4, 5, 3)).astype(np.float32)
    # MATLAB takes the first row of the inverse of YIQ's matrix.
    weights = np.linalg.inv([[1.0, 0.956, 0.621], [1.0, -0.272, -0.647], [1.0, -1.106, 1.703]])[0]
    np.testing.assert_allclose(rgb_to_grey(x)[..., 0], x @ weights, atol=1e-6)
    np.testing.assert_allclose(rgb_to_grey(np.full((2, 2, 3), 0.3, np.float32)), 0.3, atol=1e-6)
    with pytest.raises(ValueError, match="rgb_to_grey"):
        rgb_to_grey(x[..., :2])


def test_upsample_nearest_repeats_pixels():
    x = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    y = upsample_nearest(x, 3)
    assert y.dtype == np.uint8
    np.testing.assert_array_equal(y, x.repeat(3, axis=1).repeat(3, axis=2))
    with pytest.raises(ValueError, match="factor"):
        upsample_nearest(x, 0)
