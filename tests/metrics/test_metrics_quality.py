"""PSNR and SSIM against published figures, closed forms and scikit-image."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.imaging import imresize, quantise, to_float
from vaesr.metrics import DIV2K_VALIDATION, RGB, SR_BENCHMARK, Protocol, psnr, ssim, ssim_components

METRICS = pytest.mark.parametrize("metric", [psnr, ssim])

# super-resolution.md section 12: crop to a multiple of 12, MATLAB bicubic down and up, 8 bit, shave = scale.
GOLDEN_Y = {
    "astronaut": (31.6887, 28.6641, 26.8362),
    "chelsea": (35.2005, 32.8326, 31.4364),
    "coffee": (30.5963, 28.4002, 27.2851),
    "camera": (30.0144, 27.7344, 26.2215),
}
GOLDEN_RGB = {
    "astronaut": (30.1653, 27.1558, 25.3347),
    "chelsea": (33.7597, 31.3992, 30.0126),
    "coffee": (29.0983, 26.9140, 25.7924),
    "camera": (30.0144, 27.7344, 26.2215),
}


@pytest.fixture(scope="module")
def pair() -> tuple[jax.Array, jax.Array]:
    """Two batches of similar images, with flat black and flat white areas."""
    rng = np.random.default_rng(0)
    x = rng.random((3, 24, 21, 3)).cumsum(1)
    x = (x - x.min()) / (x.max() - x.min())
    x[0, :12], x[1, :12] = 1.0, 0.0
    y = np.clip(x + 0.05 * rng.normal(size=x.shape), 0, 1)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(GOLDEN_Y))
def test_bicubic_golden_values(name):
    data = pytest.importorskip("skimage.data")
    image = getattr(data, name)()
    image = image if image.ndim == 3 else image[..., None]  # grey passes under "y" as it is
    height, width = (n // 12 * 12 for n in image.shape[:2])
    x_hr = to_float(image[:height, :width])[None]
    for i, scale in enumerate((2, 3, 4)):
        x_lr = quantise(imresize(x_hr, 1 / scale))
        upscaled = imresize(x_lr, scale)
        y = psnr(x_hr, upscaled, protocol=SR_BENCHMARK(scale))
        rgb = psnr(x_hr, upscaled, protocol=Protocol(shave=scale, quantise=True))
        assert float(y[0]) == pytest.approx(GOLDEN_Y[name][i], abs=6e-5)
        assert float(rgb[0]) == pytest.approx(GOLDEN_RGB[name][i], abs=6e-5)


def test_psnr_closed_forms():
    zero = jnp.zeros((1, 4, 4, 3))
    assert float(psnr(zero, zero + 1 / 255)[0]) == pytest.approx(48.1308, abs=1e-4)  # MSE of one grey level
    in_255 = Protocol(data_range=255.0)
    assert float(psnr(zero, zero + 1, protocol=in_255)[0]) == pytest.approx(48.1308, abs=1e-4)
    # Black against white under "y" is 219 of 255 levels: 1.3219 dB, not 0.
    assert float(psnr(zero, zero + 1, protocol=Protocol("y"))[0]) == pytest.approx(1.32194, abs=1e-4)


@pytest.mark.slow
def test_psnr_of_identical_images_is_infinite_with_a_finite_gradient(pair):
    x, y = pair
    batch = y.at[1].set(x[1])
    values, gradient = psnr(x, batch), jax.grad(lambda y: psnr(x, y)[0])(batch)
    assert np.isinf(values[1])
    assert np.isfinite(values[0])
    assert np.isfinite(gradient).all()
    assert (np.asarray(jax.vmap(jax.grad(lambda a, b: psnr(a[None], b[None])[0]))(x, batch))[1] == 0).all()
    assert np.isnan(psnr(x, y.at[0, 0, 0, 0].set(jnp.nan))[0])


def test_ssim_components_are_those_of_the_paper(pair):
    x, y = pair
    found = ssim_components(x, y)
    taps = np.exp(-np.square(np.arange(11) - 5) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    # One window, in float64. Float32 knows the deviation of a flat area to 1e-4 only.
    for image, row, column, tolerance in ((2, 0, 0, 1e-5), (2, 7, 3, 1e-5), (0, 0, 0, 1e-3)):
        a, b = (np.asarray(i, np.float64)[image, row : row + 11, column : column + 11, 0] for i in (x, y))
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
        covariance, c1, c2 = (window * (a - mean_a) * (b - mean_b)).sum(), 0.01**2, 0.03**2
        product = np.sqrt(var_a * var_b)
        expected = (
            (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1),
            (2 * product + c2) / (var_a + var_b + c2),
            (covariance + c2 / 2) / (product + c2 / 2),
        )
        ours = [part[image, row, column, 0] for part in found]
        np.testing.assert_allclose(ours, expected, atol=tolerance)
    whole = (found.luminance * found.contrast * found.structure).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(whole, ssim(x, y), atol=1e-5)


@pytest.mark.slow
def test_ssim_components_tell_distortions_apart(pair):
    x = 0.2 + 0.5 * pair[0]
    brighter = ssim_components(x, x + 0.2)
    assert brighter.luminance.mean() < 0.97
    np.testing.assert_allclose(brighter.contrast, 1, atol=1e-4)
    np.testing.assert_allclose(brighter.structure, 1, atol=1e-3)
    paler = ssim_components(x, x.mean() + 0.5 * (x - x.mean()))
    assert paler.contrast.mean() < 0.95 < paler.structure.mean()
    flat = jnp.full_like(x, 0.5)
    assert all((part == 1).all() for part in ssim_components(flat, flat))
    slope = jax.grad(lambda y: sum(part.mean() for part in ssim_components(flat, y)))(flat)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_equal_scikit_image(pair, scale):
    skimage = pytest.importorskip("skimage.metrics")
    x, y = (scale * image for image in pair)
    protocol = Protocol(data_range=scale)
    for i in range(3):
        a, b = np.asarray(x[i], np.float64), np.asarray(y[i], np.float64)
        expected = skimage.structural_similarity(
            a,
            b,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=scale,
        )
        assert float(ssim(x, y, protocol=protocol)[i]) == pytest.approx(expected, abs=1e-5)
        expected = skimage.peak_signal_noise_ratio(a, b, data_range=scale)
        assert float(psnr(x, y, protocol=protocol)[i]) == pytest.approx(expected, abs=1e-5)


def test_ssim_of_a_photo_equals_scikit_image():
    skimage = pytest.importorskip("skimage")
    from skimage import data, metrics

    image = to_float(data.chelsea()[:120, :150])[None]
    other = jnp.clip(imresize(imresize(image, 1 / 3), 3.0), 0, 1)
    expected = metrics.structural_similarity(
        *(np.asarray(i[0], np.float64) for i in (image, other)),
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
    )
    assert float(ssim(image, other)[0]) == pytest.approx(expected, abs=1e-5), skimage.__version__


def test_ssim_closed_forms(pair):
    x, _ = pair
    np.testing.assert_allclose(ssim(x, x), 1.0, atol=1e-6)
    flat = jnp.ones((1, 11, 11, 1))
    # Flat images leave only the luminance term.
    a, b, c1 = 0.25, 0.75, 0.01**2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert float(ssim(a * flat, b * flat)[0]) == pytest.approx(expected, abs=1e-6)


@METRICS
def test_shave_quantise_and_luma_are_what_they_say(metric, pair):
    x, y = pair
    np.testing.assert_allclose(
        metric(x, y, protocol=Protocol(shave=3)), metric(x[:, 3:-3, 3:-3], y[:, 3:-3, 3:-3]), rtol=1e-5
    )
    np.testing.assert_allclose(
        metric(x, y, protocol=Protocol(quantise=True)), metric(quantise(x), quantise(y)), rtol=1e-5
    )
    grey = x[..., :1], y[..., :1]
    np.testing.assert_array_equal(metric(*grey, protocol=Protocol("y")), metric(*grey))


@METRICS
def test_transforms(metric, pair):
    x, y = pair
    values = metric(x, y)
    assert values.shape == (3,)
    assert values.dtype == jnp.float32
    jitted = jax.jit(metric, static_argnames="protocol")(x, y, protocol=SR_BENCHMARK(2))
    np.testing.assert_allclose(jitted, metric(x, y, protocol=SR_BENCHMARK(2)), rtol=1e-5)
    np.testing.assert_allclose(metric(x[:1], y[:1]), values[:1], rtol=1e-5)
    vmapped = jax.vmap(lambda a, b: metric(a[None], b[None])[0])(x, y)
    np.testing.assert_allclose(vmapped, values, rtol=1e-5)


@METRICS
def test_gradient(metric, pair):
    x, y = (image[2:, :12, :11, :1] for image in pair)
    chex.assert_numerical_grads(lambda y: metric(x, y).sum(), (y,), order=1, atol=0.02, rtol=0.02)
    same = jax.grad(lambda y: metric(x, y).sum())(x)
    assert np.isfinite(same).all()


@METRICS
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_in_float32_out(metric, dtype, pair):
    x, y = (image.astype(dtype) for image in pair)
    values = metric(x, y)
    assert values.dtype == jnp.float32
    np.testing.assert_array_equal(values, metric(x.astype(jnp.float32), y.astype(jnp.float32)))


@METRICS
def test_wrong_images_raise(metric):
    ok = jnp.zeros((2, 16, 16, 3))
    with pytest.raises(ValueError, match=r"\(2, 16, 16, 3\).*\(1, 16, 16, 3\)"):
        metric(ok, ok[:1])
    with pytest.raises(ValueError, match="B, H, W, C"):
        metric(ok[0], ok[0])
    with pytest.raises(TypeError, match="to_float"):
        metric(ok.astype(jnp.uint8), ok)
    with pytest.raises(TypeError, match="distorted"):
        metric(ok, ok.astype(jnp.int32))
    with pytest.raises(ValueError, match="too small"):
        metric(ok, ok, protocol=Protocol(shave=8))
    with pytest.raises(ValueError, match="luma"):
        metric(ok[..., :2], ok[..., :2], protocol=Protocol("y"))
    with pytest.raises(TypeError, match="Protocol"):
        metric(ok, ok, protocol="y")


def test_ssim_needs_a_window():
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(jnp.zeros((1, 10, 20, 1)), jnp.zeros((1, 10, 20, 1)))


@pytest.mark.parametrize(
    "fields",
    [
        {"channels": "Y"},
        {"shave": -1},
        {"shave": 1.0},
        {"shave": True},
        {"quantise": 1},
        {"data_range": 0.0},
        {"data_range": float("inf")},
        {"data_range": "255"},
    ],
)
def test_protocol_validates(fields):
    with pytest.raises(ValueError, match=f"Protocol: {next(iter(fields))}"):
        Protocol(**fields)


def test_named_protocols():
    assert Protocol(channels="y", shave=3, quantise=True) == SR_BENCHMARK(3)
    assert Protocol(shave=8, quantise=True) == DIV2K_VALIDATION(2)
    assert Protocol() == RGB
    assert hash(RGB) == hash(Protocol())
