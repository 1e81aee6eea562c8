"""Metrics against the authors' own codes, and against float64 NumPy at other sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest
from compiled import as_for_users

import vaesr.metrics as m

pytest.importorskip("scipy")
import slow

METRICS = {
    "ssim": lambda x, y: m.ssim(x, y, protocol=m.MATLAB_GREY, downsample=True),
    "ms_ssim": lambda x, y: m.ms_ssim(x, y, protocol=m.MATLAB_GREY),
    "iw_ssim": lambda x, y: m.iw_ssim(x, y, protocol=m.MATLAB_GREY),
    "gmsd": lambda x, y: m.gmsd(x, y, protocol=m.MATLAB_GREY),
    "fsim": m.fsim,
    "fsimc": m.fsimc,
    "vsi": m.vsi,
}
SLOW = {
    "ssim": slow.ssim,
    "ms_ssim": slow.ms_ssim,
    "iw_ssim": slow.iw_ssim,
    "gmsd": slow.gmsd,
    "fsim": lambda x, y: slow.fsims(x, y)[0],
    "fsimc": lambda x, y: slow.fsims(x, y)[1],
    "vsi": slow.vsi,
}


@pytest.mark.slow
@pytest.mark.parametrize("metric", list(METRICS))
def test_authors_values(metric):
    for name in official.NAMES:
        reference = official.image(name, "ref")
        batch = jnp.concatenate([official.image(name, d) for d in official.DISTORTIONS])
        found = as_for_users(METRICS[metric])(jnp.broadcast_to(reference, batch.shape), batch)
        expected = [official.official(name, d, metric) for d in official.DISTORTIONS]
        np.testing.assert_allclose(found, expected, atol=3e-6, err_msg=name)


@pytest.mark.parametrize("metric", list(METRICS))
def test_slow_versions_are_the_authors(metric):
    """The oracle of the next test, checked itself."""
    x, y = (official.pixels("coffee", d) for d in ("ref", "jpeg10"))
    assert SLOW[metric](x, y) == pytest.approx(official.official("coffee", "jpeg10", metric), abs=1e-6)


def distorted_photo(shape):
    """A piece of a photo, uint8, and it blurred with noise."""
    from scipy import ndimage

    data = pytest.importorskip("skimage.data")
    x = data.retina()[300 : 300 + shape[0], 200 : 200 + shape[1]]
    noise = np.random.default_rng(1).normal(0, 6, x.shape)
    y = np.rint(ndimage.gaussian_filter(x.astype(float), (1.2, 1.2, 0)) + noise)
    return x, y.clip(0, 255).astype(np.uint8)


# Odd sides, where the centre of the spectrum is; 384 is the first size to be halved, 640 to be divided by 3
# (numpy's round would say 2).
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(203, 191), (384, 385), (640, 641)])
def test_other_sizes_against_float64(shape):
    x, y = distorted_photo(shape)
    a, b = (jnp.asarray(i[None] / 255.0, jnp.float32) for i in (x, y))
    for name, metric in METRICS.items():
        assert float(metric(a, b)[0]) == pytest.approx(SLOW[name](x, y), abs=2e-6), name
    detector = np.random.default_rng(0).normal(size=(8, 192)) * 0.01
    found = float(m.sff(a, b, detector=detector)[0])
    assert found == pytest.approx(slow.sff(x, y, detector), abs=2e-6)


@pytest.mark.slow
def test_sff_against_float64_and_the_authors():
    matrix = np.asarray(m.load_sff_detector(m.sparse._DETECTOR), np.float64)
    apart = []
    for name in official.NAMES:
        for distortion in official.DISTORTIONS:
            x, y = (official.pixels(name, d) for d in ("ref", distortion))
            found = float(m.sff(official.image(name, "ref"), official.image(name, distortion))[0])
            assert found == pytest.approx(slow.sff(x, y, matrix), abs=2e-6)
            apart.append(found - official.official(name, distortion, "sff"))
    # Another matrix than the authors', whose licence is unclear: the same scores to 0.015.
    assert np.abs(apart).max() < 0.015


@pytest.mark.slow
def test_niqe_is_the_authors_where_nothing_is_flat():
    # Without flat areas nothing is divided by rounding errors.
    for name, distortion in [(n, "noise15") for n in official.NAMES] + [("camera", "ref"), ("coffee", "ref")]:
        found = float(m.niqe(official.image(name, distortion))[0])
        assert found == pytest.approx(official.official(name, distortion, "niqe"), abs=1e-3)
    for name in ("camera", "coffee"):
        found = float(m.niqe(official.image(name, "noise15"), protocol=m.PIRM)[0])
        assert found == pytest.approx(official.official(name, "noise15", "niqe_pirm"), abs=1e-3)


@pytest.mark.slow
def test_niqe_of_flat_areas_does_not_depend_on_rounding():
    x = official.image("astronaut", "jpeg10")
    value = float(m.niqe(x)[0])
    # With |x| < 1e-9 taken as 0 the authors' code gives 7.497 under its own luma (8.258 or 7.306 without).
    assert float(m.niqe(x, protocol=m.PIRM)[0]) == pytest.approx(7.497, abs=0.01)
    # The same picture the other way round, summed in another order.
    assert float(m.niqe(x[:, :, ::-1][:, ::-1])[0]) == pytest.approx(value, abs=0.5)
    assert np.isnan(m.niqe(jnp.full((1, 96, 96, 1), 0.5))[0])
    half_flat = x.at[:, :, :160].set(0.25)
    assert np.isfinite(m.niqe(half_flat)[0])


@pytest.mark.slow
def test_niqe_model_from_photos_and_files(tmp_path):
    photos = [official.pixels(name, "ref") for name in ("astronaut", "coffee")]
    with pytest.raises(ValueError, match="more than 36 sharp blocks"):
        m.fit_niqe_model(photos)
    data = pytest.importorskip("skimage.data")
    model = m.fit_niqe_model([data.astronaut(), data.coffee(), data.retina()], sharpness=0.3)
    assert model.mean.shape == (36,) and np.linalg.eigvalsh(model.covariance).min() > -1e-9
    np.savez(tmp_path / "own.npz", mean=model.mean, covariance=model.covariance)
    np.savez(tmp_path / "other.npz", mu_pris_param=model.mean[None], cov_pris_param=model.covariance)
    for file in ("own", "other"):
        read = m.load_niqe_model(tmp_path / f"{file}.npz")
        np.testing.assert_array_equal(read.mean, model.mean)
    scores = [float(m.niqe(official.image("coffee", d), model=read)[0]) for d in ("ref", "noise15")]
    assert scores[0] < scores[1]
    np.savez(tmp_path / "wrong.npz", mean=np.zeros(3))
    with pytest.raises(ValueError, match="must hold a mean"):
        m.load_niqe_model(tmp_path / "wrong.npz")


def test_perceptual_index_takes_the_score_that_it_is_given():
    x = official.image("coffee", "ref")
    expected = (10 - 4.0 + float(m.niqe(x, protocol=m.PIRM)[0])) / 2
    assert float(m.perceptual_index(x, lambda image: jnp.full(1, 4.0))[0]) == pytest.approx(expected)
    with pytest.raises(ValueError, match="ma_score"):
        m.perceptual_index(x, lambda image: jnp.zeros((1, 1)))


@pytest.mark.slow
def test_sff_detector_from_photos(tmp_path):
    data = pytest.importorskip("skimage.data")
    photos = [data.astronaut(), data.coffee()]
    matrix = m.fit_sff_detector(photos, patches=6000)
    assert matrix.shape == (8, 192)
    # Other patches of the same photos.
    rng = np.random.default_rng(5)
    windows = [np.lib.stride_tricks.sliding_window_view(p, (8, 8), axis=(0, 1)) for p in photos]
    places = rng.integers(0, 390, (2, 4000))
    patches = np.concatenate([w[places[0], places[1]] for w in windows]).transpose(0, 1, 3, 2)
    patches = patches.reshape(8000, 192).astype(float)
    patches -= patches.mean(1, keepdims=True)
    responses = patches @ matrix.T.astype(float)
    # Uncorrelated, of unit variance, and sparser than principal components are.
    np.testing.assert_allclose(responses.T @ responses / len(responses), np.eye(8), atol=0.5)
    components = patches @ np.linalg.svd(patches, full_matrices=False)[2][:8].T
    kurtosis = lambda x: ((x**4).mean(0) / (x**2).mean(0) ** 2).mean()
    assert kurtosis(responses) > 1.2 * kurtosis(components)
    np.testing.assert_array_equal(matrix, m.fit_sff_detector(photos, patches=6000))
    np.save(tmp_path / "w.npy", matrix)
    np.testing.assert_array_equal(m.load_sff_detector(tmp_path / "w.npy"), matrix)
    from scipy.io import savemat

    savemat(tmp_path / "W.mat", {"W": matrix.astype(float)})
    np.testing.assert_array_equal(m.load_sff_detector(tmp_path / "W.mat"), matrix)
    np.save(tmp_path / "wrong.npy", np.zeros((8, 3)))
    with pytest.raises(ValueError, match=r"\[features, 192\]"):
        m.load_sff_detector(tmp_path / "wrong.npy")
    with pytest.raises(ValueError, match="uint8"):
        m.fit_sff_detector([np.zeros((20, 20, 3))])
    flat = [np.full((20, 20, 3), 7, np.uint8)]
    with pytest.raises(ValueError, match="8 dimensions"):
        m.fit_sff_detector(flat, patches=1000)


@pytest.mark.slow
def test_medians_and_ranks_are_numpys():
    from vaesr.metrics import filters

    values = np.abs(np.random.default_rng(0).normal(size=(3, 101))).astype(np.float32).round(2)
    for count in (1, 2, 100, 101):
        np.testing.assert_array_equal(
            filters.median(jnp.asarray(values[:, :count])), np.median(values[:, :count], axis=1)
        )
    gradient = jax.grad(lambda v: filters.median(v).sum())(jnp.asarray([[0.0, 3.0, 1.0, 7.0]]))
    np.testing.assert_array_equal(gradient, [[0, 0.5, 0.5, 0]])


@pytest.mark.slow
def test_correlate_has_every_derivative():
    from vaesr.metrics import filters

    taps = (0.25, 0.5, -0.1)
    x = jax.random.normal(jax.random.key(0), (2, 6, 7))
    plain = lambda x: sum(t * x[..., i : i + 4, :] for i, t in enumerate(taps))
    ours = lambda x: filters.correlate(x, taps, -2)
    np.testing.assert_allclose(ours(x), plain(x), rtol=1e-6)
    for transform in (
        lambda f: jax.grad(lambda x: jnp.sin(f(x)).sum()),
        lambda f: lambda x: jax.jvp(f, (x,), (jnp.cos(x),))[1],
        lambda f: lambda x: jax.vmap(f, in_axes=3)(jnp.stack([x, 2 * x], axis=3)),
        lambda f: jax.hessian(lambda x: jnp.sin(f(x)).sum()),
    ):
        np.testing.assert_allclose(transform(ours)(x), transform(plain)(x), atol=1e-6)
