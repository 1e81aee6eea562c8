"""What holds of every full-reference metric: ideal values, gradients, order, symmetry, transforms."""

import functools
import io
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest
from compiled import as_for_users

import vaesr.metrics as m

# The value of identical images, and whether the definition treats both images alike.
METRICS = {
    "psnr": (m.psnr, np.inf, True),
    "ssim": (m.ssim, 1.0, True),
    "ms_ssim": (m.ms_ssim, 1.0, True),
    "iw_ssim": (m.iw_ssim, 1.0, False),
    "gmsd": (m.gmsd, 0.0, True),
    "fsim": (m.fsim, 1.0, True),
    "fsimc": (m.fsimc, 1.0, True),
    "vsi": (m.vsi, 1.0, True),
    "sff": (m.sff, 1.0, False),
}
# The definitions whose value jumps where a pixel's rank changes.
PIECEWISE = {"sff"}
# Where a program is compiled anew for each: IW-SSIM's takes as long as all the others' together.
COMPILED = [pytest.param(name, marks=pytest.mark.slow if name == "iw_ssim" else ()) for name in METRICS]
ESTIMATED = {"fsim", "fsimc", "vsi"}
LOWER_IS_BETTER = {"gmsd"}


@functools.cache
def photos():
    """One shape for nearly every test: compiling takes most of their time."""
    found = jnp.concatenate([official.image(name, "ref") for name in ("astronaut", "coffee")])
    return found[:, :180, :176]


def noisy(x, seed=0, spread=0.05):
    rng = np.random.default_rng(seed)
    return jnp.clip(x + jnp.asarray(rng.normal(size=x.shape) * spread, jnp.float32), 0, 1)


@functools.cache
def slopes(name):
    """Values and gradients by both images, compiled once for two tests."""
    metric = METRICS[name][0]
    return jax.jit(jax.value_and_grad(lambda x, y: metric(x, y).sum(), argnums=(0, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(METRICS))
def test_identical_images_have_exactly_the_ideal_value(name):
    metric, ideal, _ = METRICS[name]
    for x in (photos(), noisy(photos()), jnp.full_like(photos(), 0.3), jnp.zeros_like(photos())):
        found = np.asarray(as_for_users(metric)(x, x))
        if name in ("psnr", "gmsd"):
            np.testing.assert_array_equal(found, ideal)
        else:
            # Within rounding of a mean over equal terms.
            np.testing.assert_allclose(found, ideal, atol=3e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_finite_gradients_where_other_codes_divide_by_zero(name):
    x = photos()
    flat, zero, half = jnp.full_like(x, 0.5), jnp.zeros_like(x), x.at[:, :90].set(0.25)
    pairs = {
        "identical": (x, x),
        "flat": (flat, flat),
        "zero": (zero, zero),
        "flat reference": (flat, x),
        "flat distorted": (x, flat),
        "black and white": (zero, jnp.ones_like(x)),
        "inverted": (x, 1 - x),
        "half flat": (half, half + 0.01),
    }
    gradients = slopes(name)
    for case, (a, b) in pairs.items():
        value, both = gradients(a, b)
        assert np.isfinite(value) or (name == "psnr" and (a == b).all()), case
        for gradient in both:
            assert np.isfinite(gradient).all(), case
        if case == "identical":
            # The best value is an extreme; what is left is rounding.
            assert max(float(jnp.abs(gradient).max()) for gradient in both) < 1e-4, case


@pytest.mark.slow
@pytest.mark.parametrize("name", [param for param in COMPILED if param.values[0] not in PIECEWISE])
def test_gradients_are_the_slope(name):
    metric = METRICS[name][0]
    x = photos()
    y, rng = noisy(x * 0.8 + 0.1), np.random.default_rng(7)
    # A smooth and a rough direction.
    rough = rng.normal(size=x.shape)
    smooth = np.cumsum(np.cumsum(rough, 1), 2)
    _, (_, gradient) = slopes(name)(x, y)
    for direction in (rough, smooth / np.abs(smooth).max()):
        d, h = jnp.asarray(direction, jnp.float32), 2e-3
        numerical = float((metric(x, y + h * d) - metric(x, y - h * d)).sum()) / (2 * h)
        found = float(jnp.vdot(gradient, d))
        # Of medians and of powers near 0 the slope is an estimate (`filters.median`, `filters.real_power`).
        assert found == pytest.approx(numerical, rel=0.25 if name in ESTIMATED else 0.02, abs=2e-4)


def blurred(x, step):
    from scipy import ndimage

    return ndimage.gaussian_filter(x.astype(float), (*(0.6 * (step + 1),) * 2, 0))


def with_noise(x, step):
    return x + np.random.default_rng(0).normal(size=x.shape) * 4 * 2**step


def as_jpeg(x, step):
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(x).save(buffer, format="JPEG", quality=(60, 30, 12, 4)[step])
    return np.asarray(Image.open(buffer), float)


def scaled_down(x, step):
    from PIL import Image

    size, factor = (x.shape[1], x.shape[0]), (2, 3, 4, 6)[step]
    small = Image.fromarray(x).resize((size[0] // factor, size[1] // factor), Image.Resampling.BICUBIC)
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC), float)


def crops():
    """Three photographs; ten more of the folder that VAESR_PHOTOS names, if it does."""
    data = pytest.importorskip("skimage.data")
    found = {
        "cat": data.chelsea()[20:276, 100:356],
        "rocket": data.rocket()[100:356, 200:456],
        "coffee": official.pixels("coffee", "ref"),
    }
    if "VAESR_PHOTOS" in os.environ:
        from PIL import Image

        for path in sorted(pathlib.Path(os.environ["VAESR_PHOTOS"]).iterdir()):
            image = np.asarray(Image.open(path).convert("RGB"))
            top, left = ((n - 256) // 2 for n in image.shape[:2])
            crop = image[top : top + 256, left : left + 256]
            # Of nearly flat ones (a piece of sky) the authors' VSI itself is not monotone.
            if crop.std(axis=(0, 1)).mean() > 10 and len(found) < 13:
                found[path.stem] = crop
    return found


@pytest.mark.slow
@pytest.mark.parametrize("distort", [blurred, with_noise, as_jpeg, scaled_down])
def test_every_step_of_a_distortion_is_worse(distort):
    pytest.importorskip("scipy")
    for photo, x in crops().items():
        steps = [np.rint(distort(x, step)).clip(0, 255) for step in range(4)]
        batch = jnp.asarray(np.stack([x, *steps]) / 255.0, jnp.float32)
        reference = jnp.broadcast_to(batch[:1], batch.shape)
        for name, (metric, _, _) in METRICS.items():
            scores = np.asarray(metric(reference, batch), np.float64)
            better = -scores if name in LOWER_IS_BETTER else scores
            assert (np.diff(better) < 0).all(), (photo, name, scores)


@pytest.mark.parametrize("name", list(METRICS))
def test_symmetric_where_the_definition_is(name):
    metric, _, symmetric = METRICS[name]
    x, y = photos(), noisy(photos())
    apart = np.abs(np.asarray(metric(x, y) - metric(y, x))).max()
    # The others weigh by what the reference shows.
    assert apart < 3e-6 if symmetric else apart > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_vmap_and_half_precision(name):
    metric = METRICS[name][0]
    x = photos()
    y = noisy(x)
    batch = np.asarray(metric(x, y))
    assert batch.shape == (2,) and batch.dtype == np.float32
    mapped = jax.vmap(lambda a, b: metric(a[None], b[None])[0])(x, y)
    np.testing.assert_allclose(mapped, batch, rtol=1e-5, atol=2e-6)
    # Half precision is widened: the score is that of the rounded pixels, not of half-precision arithmetic.
    for dtype in (jnp.bfloat16, jnp.float16):
        halves = metric(x.astype(dtype), y.astype(dtype))
        assert halves.dtype == jnp.float32
        rounded = metric(*(i.astype(dtype).astype(jnp.float32) for i in (x, y)))
        np.testing.assert_array_equal(halves, rounded)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_unit_and_sharding(name):
    metric = METRICS[name][0]
    x = photos()
    y = noisy(x)
    expected = metric(x, y)
    # One channel, so that it is the same under the grey and the RGB protocol.
    wide = metric(255 * x[..., :1], 255 * y[..., :1], protocol=m.Protocol(data_range=255.0))
    plain = metric(x[..., :1], y[..., :1])
    np.testing.assert_allclose(wide, plain, rtol=1e-5, atol=2e-6)
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    sharded = metric(*jax.device_put((x, y), spread))
    np.testing.assert_allclose(sharded, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", list(METRICS))
def test_bad_input_is_named(name):
    metric = METRICS[name][0]
    x = jnp.zeros((1, 180, 176, 3))
    with pytest.raises(ValueError, match=rf"{name}.*same shape"):
        metric(x, x[:, :-1])
    with pytest.raises(ValueError, match=name):
        metric(x[0], x[0])
    with pytest.raises(TypeError, match=rf"{name}.*floating"):
        metric(x.astype(jnp.uint8), x)
    with pytest.raises(TypeError, match="protocol"):
        metric(x, x, protocol="y")
    if name != "psnr":
        with pytest.raises(ValueError, match=rf"{name}.*small"):
            metric(x[:, :3], x[:, :3])


@pytest.mark.slow
def test_many_batches_in_flight_dont_wait_for_each_other():
    """Several LAPACK calls in one program can block both threads of a small CPU for ever."""
    program = """
import jax, numpy as np, vaesr.metrics as m
x = np.random.default_rng(0).uniform(size=(16, 256, 256, 1)).astype(np.float32)
y = np.float32(0.9) * x
scores = [metric(x, y) for _ in range(4) for metric in (m.iw_ssim, m.gmsd)]
scores.append(m.niqe(x))
jax.block_until_ready(scores)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=240)
