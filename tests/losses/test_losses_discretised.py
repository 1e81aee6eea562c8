"""Likelihoods of grey levels: probabilities that sum to 1, float64 references, both tails, gradients."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.test_util import check_grads

from vaesr import losses

LOSSES = {
    "logistic": losses.discretised_logistic_nll,
    "gaussian": losses.discretised_gaussian_nll,
    "mixture": losses.logistic_mixture_nll,
}
both = pytest.mark.parametrize("name", ["logistic", "gaussian"])


def _grid(bits: int) -> jax.Array:
    """All levels, one per example: `[2^bits, 1]`."""
    return jnp.arange(2**bits, dtype=jnp.float32)[:, None] / (2**bits - 1)


def _log_mass(name: str, mean: float, log_scale: float, bits: int = 8, **knobs) -> np.ndarray:
    levels = _grid(bits)
    full = functools.partial(jnp.full, levels.shape, dtype=jnp.float32)
    nll = _compiled(name, bits=bits, **knobs)(full(mean), full(log_scale), levels)
    return -np.asarray(nll, np.float64)


@functools.cache
def _compiled(name: str, **knobs):
    return jax.jit(functools.partial(LOSSES[name], **knobs))


def _reference(name: str, mean: float, log_scale: float, bits: int = 8) -> np.ndarray:
    """Log-masses of all levels in float64: differences of log-cdfs, mirrored so that they stay in the left
    tail."""
    half_bin = 1.0 / (2**bits - 1)
    x = 2.0 * np.arange(2**bits) * half_bin - 1.0
    scale = np.exp(log_scale)
    upper, lower = (x + half_bin - mean) / scale, (x - half_bin - mean) / scale
    log_cdf = scipy.special.log_ndtr if name == "gaussian" else lambda v: -np.logaddexp(0.0, -v)
    right = x > mean
    high, low = log_cdf(np.where(right, -lower, upper)), log_cdf(np.where(right, -upper, lower))
    result = high + np.log(-np.expm1(low - high))
    result[0], result[-1] = log_cdf(upper[0]), log_cdf(-lower[-1])
    return result


# --- masses ----------------------------------------------------------------------------------------------

EDGE_MEANS = (-1.2, -1.0, 0.0, 1.0, 1.2)
EDGE_SCALES = (-7.0, -4.0, 0.0, 3.0, 9.0)


@both
@pytest.mark.parametrize("bits", [1, 5, 8])
def test_the_masses_of_all_levels_sum_to_one(name, bits):
    generator = np.random.default_rng(bits)
    drawn = zip(generator.uniform(-1.5, 1.5, 15), generator.uniform(-8, 3, 15), strict=True)
    for mean, log_scale in itertools.chain(itertools.product(EDGE_MEANS, EDGE_SCALES), drawn):
        total = np.exp(_log_mass(name, mean, log_scale, bits)).sum()
        assert abs(total - 1.0) < 1e-6, (mean, log_scale)


@pytest.mark.parametrize(
    ("mean", "log_scale", "nvae"), [(0.9, -3.0, 1.127), (1.0, -4.0, 1.553), (1.2, -4.0, 2.000)]
)
def test_the_defect_of_nvae_is_reproduced_by_name_only(mean, log_scale, nvae):
    exact = np.exp(_log_mass("logistic", mean, log_scale)).sum()
    defect = np.exp(_log_mass("logistic", mean, log_scale, edges="nvae"))
    assert abs(exact - 1.0) < 3e-6
    assert abs(defect.sum() - nvae) < 5e-4
    # It is level 254 alone that differs, where masses are no tiny ones; with 5 bits there is no difference.
    differs = abs(defect - np.exp(_log_mass("logistic", mean, log_scale))) > 1e-7
    assert differs.nonzero()[0].tolist() == [254]
    five = [np.exp(_log_mass("logistic", mean, log_scale, 5, edges=edges)) for edges in ("nvae", "exact")]
    np.testing.assert_allclose(*five, atol=3e-6)
    assert (five[0] == five[1])[five[1] > 2e-5].all()


@both
@pytest.mark.parametrize("mean", [0.25, -1.2, 5.0])
@pytest.mark.parametrize("log_scale", [-7.0, -4.0, 0.0, 2.0])
def test_every_mass_and_gradient_equals_a_float64_reference(name, mean, log_scale):
    mean = float(np.float32(mean))
    np.testing.assert_allclose(
        _log_mass(name, mean, log_scale), _reference(name, mean, log_scale), rtol=1e-5, atol=1e-5
    )
    levels, full = _grid(8), functools.partial(jnp.full, (256, 1), dtype=jnp.float32)
    loss = functools.partial(LOSSES[name], min_log_scale=-20.0)
    slopes = jax.jit(jax.grad(lambda m, s: loss(m, s, levels).sum(), argnums=(0, 1)))
    by_mean, by_scale = slopes(full(mean), full(log_scale))
    step = 1e-4
    reference = lambda m, s: -_reference(name, m, s)
    width = step * np.exp(log_scale)
    expected = (reference(mean + width, log_scale) - reference(mean - width, log_scale)) / (2 * step)
    np.testing.assert_allclose(by_mean[:, 0] * np.exp(log_scale), expected, rtol=2e-4, atol=2e-4)
    expected = (reference(mean, log_scale + step) - reference(mean, log_scale - step)) / (2 * step)
    np.testing.assert_allclose(by_scale[:, 0], expected, rtol=2e-4, atol=2e-4)


@both
@pytest.mark.parametrize("mean", [1.2, -1.2, 100.0, -100.0])
@pytest.mark.parametrize("log_scale", [-30.0, -7.0, 30.0])
def test_far_off_targets_give_finite_values_and_gradients(name, mean, log_scale):
    levels, full = _grid(8), functools.partial(jnp.full, (256, 1), dtype=jnp.float32)
    both_slopes = jax.value_and_grad(lambda m, s: LOSSES[name](m, s, levels).sum(), argnums=(0, 1))
    value, gradients = jax.jit(both_slopes)(full(mean), full(log_scale))
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)
    # Far levels pull the mean towards them: the gradient does not vanish in the tail.
    if log_scale == -7.0:
        far = gradients[0][:250, 0] if mean > 0 else gradients[0][6:, 0]
        assert (far * np.sign(mean) > 0).all()


def test_the_floor_of_the_scale_is_a_knob():
    low, floor = _log_mass("logistic", 0.1, -9.0), _log_mass("logistic", 0.1, -7.0)
    np.testing.assert_array_equal(low, floor)
    assert (_log_mass("logistic", 0.1, -9.0, min_log_scale=-10.0) != floor).any()


@both
def test_targets_are_rounded_to_the_nearest_level(name):
    mean, log_scale = jnp.full((4, 1), 0.2), jnp.full((4, 1), -3.0)
    exact = jnp.array([[100], [101], [254], [255]], jnp.float32) / 255
    value = _compiled(name)(mean, log_scale, exact)
    for other in (exact + 0.4 / 255, exact.astype(jnp.bfloat16)):
        np.testing.assert_array_equal(_compiled(name)(mean, log_scale, other), value)


# --- the mixture -----------------------------------------------------------------------------------------


def _parameters(seed: int, shape: tuple[int, ...], mixtures: int, channels: int) -> np.ndarray:
    width = mixtures * (3 if channels == 1 else 10)
    values = np.random.default_rng(seed).normal(size=(*shape, width))
    values[..., mixtures:] *= 0.7
    return values.astype(np.float32)


def _slow_mixture(parameters: np.ndarray, pixel: np.ndarray, mixtures: int, bits: int) -> float:
    """One pixel's log-probability in float64, after Salimans et al. 2017, with loops."""
    parameters = parameters.astype(np.float64)
    log_weights = parameters[:mixtures] - scipy.special.logsumexp(parameters[:mixtures])
    rest = parameters[mixtures:].reshape(len(pixel), -1, mixtures)
    levels = np.floor(pixel * (2**bits - 1) + 0.5).astype(int)
    x = 2.0 * levels / (2**bits - 1) - 1.0
    total = log_weights.copy()
    for m in range(mixtures):
        coefficients = np.tanh(rest[:, 2, m]) if len(pixel) == 3 else np.zeros(3)
        shifts = [0.0, coefficients[0] * x[0], 0.0]
        if len(pixel) == 3:
            shifts[2] = coefficients[1] * x[0] + coefficients[2] * x[1]
        for channel, level in enumerate(levels):
            mean, log_scale = rest[channel, 0, m] + shifts[channel], max(rest[channel, 1, m], -7.0)
            total[m] += _reference("logistic", mean, log_scale, bits)[level]
    return scipy.special.logsumexp(total)


@pytest.mark.parametrize(("channels", "mixtures", "bits"), [(1, 4, 8), (3, 3, 8), (3, 2, 5)])
def test_the_mixture_equals_a_slow_float64_implementation(channels, mixtures, bits):
    parameters = _parameters(0, (3, 2, 2), mixtures, channels)
    images = np.random.default_rng(1).integers(0, 2**bits, (3, 2, 2, channels)) / (2**bits - 1)
    images = images.astype(np.float32)
    expected = [
        -sum(
            _slow_mixture(parameters[b, i, j], images[b, i, j], mixtures, bits)
            for i in (0, 1)
            for j in (0, 1)
        )
        for b in range(3)
    ]
    value = _compiled("mixture", mixtures=mixtures, bits=bits)(parameters, images)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("bits", [1, 2])
def test_the_joint_probabilities_of_all_colours_sum_to_one(bits):
    colours = np.array(list(itertools.product(range(2**bits), repeat=3)), np.float32) / (2**bits - 1)
    for seed, spread in ((0, 1.0), (1, 5.0)):
        parameters = spread * _parameters(seed, (1,), 2, 3)
        repeated = jnp.broadcast_to(jnp.asarray(parameters), (len(colours), parameters.shape[-1]))
        nll = _compiled("mixture", mixtures=2, bits=bits)(repeated, colours)
        assert abs(np.exp(-np.asarray(nll, np.float64)).sum() - 1.0) < 1e-5


@pytest.mark.parametrize("bits", [5, 8])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_each_channel_given_the_ones_before_sums_to_one(bits, channel):
    """Random parameters, and the edge: means outside the range, scales at the floor, strong coupling."""
    levels = 2**bits
    edge = np.full((1, 10), -7.0, np.float32)
    edge[0, [1, 4, 7]] = 1.2, -1.2, 1.2
    # The other channels are kept where their mass is 1: float32 holds no sum of 2000 nats to five decimals.
    edge[0, [3, 6, 9]] = 0.0
    edge[0, {0: [], 1: [3], 2: [6, 9]}[channel]] = 0.3
    for parameters, given in (
        (_parameters(bits, (1,), 1, 3), np.random.default_rng(channel).integers(0, levels, 3) / (levels - 1)),
        (edge, np.array([1.0, 0.0, 1.0])),
    ):
        pixels = np.tile(given, (levels, 1))
        pixels[:, channel] = np.arange(levels) / (levels - 1)
        nll = _compiled("mixture", mixtures=1, bits=bits)(np.repeat(parameters, levels, axis=0), pixels)
        joint = -np.asarray(nll, np.float64)
        others = np.array([_others_log_mass(parameters[0], pixel, channel, bits) for pixel in pixels])
        assert abs(np.exp(joint - others).sum() - 1.0) < 1e-5


def _others_log_mass(parameters: np.ndarray, pixel: np.ndarray, left_out: int, bits: int) -> float:
    """The float64 log-mass of the other channels of a one-component pixel."""
    rest = parameters[1:].astype(np.float64).reshape(3, 3)
    x, c = 2.0 * pixel - 1.0, np.tanh(rest[:, 2])
    means = rest[:, 0] + np.array([0.0, c[0] * x[0], c[1] * x[0] + c[2] * x[1]])
    return sum(
        _reference("logistic", means[k], max(rest[k, 1], -7.0), bits)[round(pixel[k] * (2**bits - 1))]
        for k in range(3)
        if k != left_out
    )


def test_one_component_without_coupling_is_the_discretised_logistic():
    generator = np.random.default_rng(0)
    mean, log_scale = (generator.normal(size=(2, 4, 4, 1)).astype(np.float32) for _ in range(2))
    targets = (generator.integers(0, 256, (2, 4, 4, 1)) / 255).astype(np.float32)
    parameters = np.concatenate([np.zeros_like(mean), mean, log_scale], axis=-1)
    np.testing.assert_allclose(
        _compiled("mixture", mixtures=1)(parameters, targets),
        _compiled("logistic")(mean, log_scale, targets),
        rtol=1e-6,
    )


# --- the habits of every loss ----------------------------------------------------------------------------


def _array(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _image(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, shape) / 255, jnp.float32)


_rgb = functools.partial(losses.logistic_mixture_nll, mixtures=2)
_grey = functools.partial(losses.logistic_mixture_nll, mixtures=3, bits=5)
CASES = {
    "logistic": (LOSSES["logistic"], (_array(0, (4, 3, 2)), _array(1, (4, 3, 2)), _image(2, (4, 3, 2)))),
    "gaussian": (LOSSES["gaussian"], (_array(0, (4, 3, 2)), _array(1, (4, 3, 2)), _image(2, (4, 3, 2)))),
    "mixture_rgb": (_rgb, (_array(0, (4, 3, 2, 20)), _image(1, (4, 3, 2, 3)))),
    "mixture_grey": (_grey, (_array(0, (4, 3, 9)), _image(1, (4, 3, 1)))),
}
cases = pytest.mark.parametrize(("function", "arguments"), CASES.values(), ids=CASES.keys())


@pytest.mark.slow
@cases
def test_one_float32_value_per_example_with_and_without_jit(function, arguments):
    value = function(*arguments)
    assert value.shape == (4,) and value.dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(function)(*arguments), value, rtol=1e-5)


@cases
def test_examples_do_not_touch_each_other(function, arguments):
    function = jax.jit(function)
    one_by_one = [function(*(a[i : i + 1] for a in arguments))[0] for i in range(4)]  # a batch of one
    np.testing.assert_allclose(one_by_one, function(*arguments), rtol=1e-5)


@cases
def test_vmap(function, arguments):
    function = jax.jit(function)
    doubled = jax.vmap(function)(*(jnp.stack([a, a]) for a in arguments))
    np.testing.assert_allclose(doubled[1], function(*arguments), rtol=1e-5)


@cases
def test_gradients_are_numerically_right(function, arguments):
    *parameters, targets = arguments
    total = jax.jit(lambda *p: function(*p, targets).sum() / 10)
    check_grads(total, parameters, order=1, modes=["rev"], atol=5e-2, rtol=5e-2)


@cases
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_widened_before_anything_else(function, arguments, dtype):
    # Two programs are to agree in the last bit: at conftest's level 0 jaxlib 0.12 rounds them differently.
    function = jax.jit(function, compiler_options={"xla_backend_optimization_level": 1})
    half = tuple(a.astype(dtype) for a in arguments)
    value = function(*half)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, function(*(a.astype(jnp.float32) for a in half)))


def test_a_scalar_scale_is_shared():
    mean, targets = _array(0, (4, 3)), _image(1, (4, 3))
    for loss in (_compiled("logistic"), _compiled("gaussian")):
        shared = loss(mean, -2.0, targets)
        np.testing.assert_allclose(shared, loss(mean, jnp.full((4, 3), -2.0), targets), rtol=1e-6)


@both
def test_wrong_arguments_are_refused_with_a_sentence(name):
    loss, x = LOSSES[name], jnp.zeros((4, 3))
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(4, 2\)"):
        loss(x, x, x[:, :2])
    with pytest.raises(ValueError, match=r"log_scale must be a scalar.*\(3,\)"):
        loss(x, x[0], x)
    with pytest.raises(ValueError, match="divide 8-bit images by 255"):
        loss(x, x, x.astype(jnp.uint8))
    with pytest.raises(ValueError, match="bits must be an integer from 1 to 16, got 0"):
        loss(x, x, x, bits=0)


def test_the_mixture_refuses_what_does_not_fit():
    mixture = losses.logistic_mixture_nll
    with pytest.raises(ValueError, match=r"\[B, \.\.\., 30\] for grey or \[B, \.\.\., 100\] for RGB.*50\)"):
        mixture(jnp.zeros((2, 50)), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"agree in all axes but the last.*\(2, 4, 30\).*\(2, 5, 1\)"):
        mixture(jnp.zeros((2, 4, 30)), jnp.zeros((2, 5, 1)))
    with pytest.raises(ValueError, match=r"value must be \(2, 1, 3\)"):
        mixture(jnp.zeros((2, 100)), jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match="mixtures must be at least 1, got 0"):
        mixture(jnp.zeros((2, 100)), jnp.zeros((2, 3)), mixtures=0)
    with pytest.raises(ValueError, match="edges must be one of exact, nvae, got 'open'"):
        mixture(jnp.zeros((2, 100)), jnp.zeros((2, 3)), edges="open")
    with pytest.raises(ValueError, match="divide 8-bit images by 255"):
        mixture(jnp.zeros((2, 100)), jnp.zeros((2, 3), jnp.uint8))
