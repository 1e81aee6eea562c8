"""Blurs against SciPy and each form against the others; kernels against closed forms and others' numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.special

from vaesr import imaging
from vaesr.imaging.kernels import _bessel_j1

FORMS = ("auto", "bands", "grouped", "fft")
RNG = np.random.default_rng(0)
X, K = RNG.random((2, 41, 70, 3), np.float32), RNG.random((2, 9, 7), np.float32)


def by_scipy(x, kernel, mode="reflect", scale=1):
    each = [
        scipy.ndimage.correlate(x[..., c].astype(np.float64), kernel, mode=mode) for c in range(x.shape[-1])
    ]
    return np.stack(each, axis=-1)[::scale, ::scale]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_downsample_equals_scipy(form, scale):
    one = imaging.downsample(X, K[0], scale, form=form)
    each = imaging.downsample(X, K, scale, form=form)
    for n in range(2):
        np.testing.assert_allclose(one[n], by_scipy(X[n], K[0], scale=scale), rtol=3e-6)
        np.testing.assert_allclose(each[n], by_scipy(X[n], K[n], scale=scale), rtol=3e-6)


@pytest.mark.parametrize(
    ("border", "scipys"),
    [
        ("symmetric", "reflect"),
        ("reflect", "mirror"),
        ("edge", "nearest"),
        ("wrap", "wrap"),
        ("constant", "constant"),
    ],
)
def test_borders_are_scipys(border, scipys):
    np.testing.assert_allclose(
        imaging.blur(X[0], K[0], border=border), by_scipy(X[0], K[0], scipys), rtol=3e-6, atol=1e-5
    )


@pytest.mark.parametrize("form", FORMS[1:])
def test_forms_have_one_gradient(form):
    def value(x, k, form):
        return jnp.sin(imaging.correlate(x, k, stride=2, form=form)).sum()

    k = jnp.asarray(K / K.sum((1, 2), keepdims=True))
    ours = jax.jit(jax.grad(value, (0, 1)), static_argnums=2)(X, k, form)
    theirs = jax.grad(value, (0, 1))(X, k, "auto")
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))


def test_accelerators_get_their_own_convolution():
    lowered = jax.jit(lambda x, k: imaging.correlate(x, k)).trace(X, K).lower(lowering_platforms=("tpu",))
    assert "stablehlo.convolution" in lowered.as_text()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: imaging.correlate(X, np.ones((3, 3, 3))), r"expected \[K, L\], or \[2, 'K', 'L'\]"),
        (lambda: imaging.correlate(X, np.ones((50, 3))), "smaller than the kernel"),
        (lambda: imaging.correlate(X, K[0], form="fast"), "form must be one of auto, bands, grouped, fft"),
        (lambda: imaging.blur(X, K[0], border="mirror"), "border must be one of symmetric"),
        (lambda: imaging.downsample(X, K[0], 1.5), "scale must be an integer of at least 1"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- kernels ---------------------------------------------------------------------------------------------


def covariance(kernel):
    kernel = np.asarray(kernel, np.float64)
    y, x = np.mgrid[: kernel.shape[0], : kernel.shape[1]]
    total = kernel.sum()
    my, mx = (kernel * y).sum() / total, (kernel * x).sum() / total
    xx, xy, yy = ((kernel * a).sum() / total for a in ((x - mx) ** 2, (x - mx) * (y - my), (y - my) ** 2))
    return np.array([[xx, xy], [xy, yy]])


def test_gaussians_have_the_covariance_asked_for():
    kernels = imaging.gaussian_kernel(31, jnp.array([2.0, 1.5]), jnp.array([1.0, 3.0]), jnp.array([0.3, 1.2]))
    for kernel, sx, sy, theta in zip(kernels, (2.0, 1.5), (1.0, 3.0), (0.3, 1.2), strict=True):
        turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
        np.testing.assert_allclose(covariance(kernel), turn @ np.diag([sx**2, sy**2]) @ turn.T, rtol=2e-3)
        np.testing.assert_allclose(kernel.sum(), 1, atol=1e-6)


def test_generalised_and_plateau_kernels_are_their_formulas():
    y, x = np.mgrid[-3:4, -3:4] / 1.5
    q = x**2 + y**2
    for beta, plateau, formula in ((0.5, False, np.exp(-(q**0.5) / 2)), (2.0, True, 1 / (1 + q**2))):
        ours = imaging.gaussian_kernel(7, 1.5, 1.5, 0.0, beta=beta, plateau=plateau)
        np.testing.assert_allclose(ours, formula / formula.sum(), rtol=1e-4, atol=1e-6)


def test_the_centre_may_lie_between_pixels():
    kernel = imaging.gaussian_kernel(21, 1.3, 1.3, 0.0, centre=jnp.array([10.5, 9.25]))
    np.testing.assert_allclose(imaging.centre_of_mass(kernel), [10.5, 9.25], atol=1e-4)


def test_sinc_is_the_bessel_functions():
    x = np.linspace(0.1, 90, 200).astype(np.float32)
    np.testing.assert_allclose(_bessel_j1(jnp.asarray(x), most=np.pi * 21), scipy.special.j1(x), atol=2e-6)
    cutoff, side = 1.7, 21
    y, x = np.mgrid[-10:11, -10:11]
    r = np.hypot(x, y)
    away = np.where(r == 0, 1, r)
    k = np.where(
        r == 0, cutoff**2 / (4 * np.pi), cutoff * scipy.special.j1(cutoff * away) / (2 * np.pi * away)
    )
    np.testing.assert_allclose(imaging.sinc_kernel(side, cutoff), k / k.sum(), atol=1e-6)


def test_motion_lies_along_its_direction():
    spread = covariance(imaging.motion_kernel(25, 12.0, 0.5))
    values, vectors = np.linalg.eigh(spread)
    assert abs(values[1] - 12.0**2 / 12) < 0.3 and values[0] < 0.3
    assert abs(abs(vectors[:, 1] @ [np.cos(0.5), np.sin(0.5)]) - 1) < 1e-3
    np.testing.assert_allclose(imaging.motion_kernel(9, 0.0, 0.0)[4, 4], 1, atol=1e-6)


# --- shapes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_bicubic_kernel_is_imresize(scale):
    x = RNG.random((1, 60, 72, 3), np.float32)
    ours = imaging.downsample(x, imaging.bicubic_kernel(scale), scale)
    np.testing.assert_allclose(ours, imaging.imresize(x, 1 / scale), atol=1e-6)


def test_the_bicubic_kernel_holds_kernelgans_table():
    """The largest of the 8x8 numbers in the authors' code, the outer product of a row with itself."""
    row = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
    kernel = imaging.bicubic_kernel(2)
    assert abs(kernel.max() - 0.1880035400390625) < 1e-12
    np.testing.assert_allclose(kernel[2:10, 2:10], np.outer(row, row), atol=1e-12)


def test_a_kernel_of_four_is_two_of_two():
    kernel, x = imaging.random_kernel(3), RNG.random((90, 90, 1))
    whole = np.zeros((31, 31))
    for row in range(11):
        for column in range(11):
            whole[2 * row : 2 * row + 11, 2 * column : 2 * column + 11] += kernel[row, column] * kernel

    def valid(x, k, stride):
        windows = np.lib.stride_tricks.sliding_window_view(x[..., 0], k.shape)[::stride, ::stride]
        return np.einsum("hwij,ij->hw", windows, k)[..., None]

    twice = valid(valid(x, kernel, 2), kernel, 2)
    once = valid(x, whole, 4)
    np.testing.assert_allclose(once, twice[: len(once), : once.shape[1]], atol=1e-13)
    cut = imaging.kernel_of_twice(kernel)
    assert cut.shape == (21, 21)
    np.testing.assert_allclose(cut, whole[5:-5, 5:-5] / whole[5:-5, 5:-5].sum(), atol=1e-15)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("side", [11, 12, 15])
def test_shifted_kernels_have_their_centre_where_it_belongs(scale, side):
    kernel = np.asarray(imaging.gaussian_kernel(side, 1.2, 0.9, 0.4), np.float64)
    shifted = imaging.kernel_shift(kernel, scale)
    assert (len(shifted) - side) % 2 == 0 and len(shifted) > side
    wanted = imaging.wanted_centre(len(shifted), scale)
    np.testing.assert_allclose(imaging.centre_of_mass(shifted), [wanted, wanted], atol=0.02)
    np.testing.assert_allclose(shifted.sum(), 1, atol=1e-3)


def test_a_shifted_kernel_moves_nothing():
    """Blurred, subsampled and enlarged again, an image lies where it was: by the phase of its spectrum."""
    rng = np.random.default_rng(1)
    x = scipy.ndimage.gaussian_filter(rng.random((256, 256)), 3)
    kernel = imaging.kernel_shift(np.asarray(imaging.gaussian_kernel(11, 2.0, 1.0, 0.5)), 2)
    small = imaging.downsample(x[..., None].astype(np.float32), kernel, 2)
    large = np.asarray(imaging.imresize(small, 2))[..., 0]
    product = np.fft.fft2(large - large.mean()) * np.conj(np.fft.fft2(x - x.mean()))
    low = np.fft.fftfreq(256)[1:9]
    for phases in (np.angle(product[1:9, 0]), np.angle(product[0, 1:9])):
        offset = -(phases / (2 * np.pi * low)).mean()
        assert abs(offset) < 0.05  # of a pixel; half a pixel is what a wrong convention makes


def test_random_kernels_are_div2krks():
    kernels = [imaging.random_kernel(seed) for seed in range(40)]
    assert all(kernel.shape == (11, 11) and abs(kernel.sum() - 1) < 1e-12 for kernel in kernels)
    centres = np.array([imaging.centre_of_mass(kernel) for kernel in kernels])
    assert np.abs(centres - 5.5).max() < 0.1
    spreads = np.array([np.linalg.eigvalsh(covariance(kernel)) for kernel in kernels])
    assert 0.3 < spreads.min() < 0.9 and 4 < spreads.max() < 6
    np.testing.assert_array_equal(imaging.random_kernel(5), imaging.random_kernel(5))
    assert imaging.random_kernel(5, scale=4).shape == (21, 21)


def test_cleaning_keeps_the_large_entries():
    kernel = np.asarray(imaging.gaussian_kernel(13, 1.5, 1.5, 0.0, centre=jnp.array([6.5, 6.5])), np.float64)
    dirty = kernel + np.random.default_rng(0).normal(0, 1e-4, kernel.shape)
    cleaned = imaging.fit_kernel(imaging.clean_kernel(dirty), 13)
    assert np.square(cleaned - kernel).mean() < 1e-4


@pytest.mark.parametrize("bad", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.ones(3)])
def test_what_is_no_kernel_is_refused(bad):
    with pytest.raises(ValueError, match=r"kernel must be \[K, L\], finite"):
        imaging.fit_kernel(bad, 5)
