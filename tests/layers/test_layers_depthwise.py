"""Depthwise and 1x1 convolution against XLA's own; normalisation with Swish against automatic gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import training
from vaesr.forms import made_for_cpus
from vaesr.layers import BatchNormSwish, depthwise_conv2d, pointwise_conv2d


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def direct(x, kernel, *, groups):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def check_pulled(ours, theirs, x, kernel):
    """Equal values and gradients of two functions."""
    (y, pull), (expected, expected_pull) = jax.vjp(ours, x, kernel), jax.vjp(theirs, x, kernel)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    g = normal(2, *expected.shape)
    for mine, wanted in zip(pull(g), expected_pull(g), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("form", ["auto", "direct", "shifts"])
@pytest.mark.parametrize(
    ("side", "shape"), [(5, (2, 7, 6, 3)), (3, (1, 4, 5, 2)), (5, (2, 2, 3, 4)), (5, (3, 8, 8, 2))]
)
def test_values_and_gradients(form, side, shape):
    x, kernel = normal(0, *shape), normal(1, side, side, 1, shape[-1])
    theirs = lambda x, k: direct(x, k, groups=shape[-1])
    check_pulled(lambda x, k: depthwise_conv2d(x, k, form=form), theirs, x, kernel)


@pytest.mark.parametrize("form", ["auto", "direct", "shifts"])
@pytest.mark.parametrize(("side", "enlarge"), [(5, 2), (3, 2), (1, 2), (7, 2), (5, 3), (9, 4)])
def test_of_enlarged_images(form, side, enlarge):
    x, kernel = normal(0, 2, 4, 3, 3), normal(1, side, side, 1, 3)

    def theirs(x, k):
        return direct(jnp.repeat(jnp.repeat(x, enlarge, axis=1), enlarge, axis=2), k, groups=3)

    check_pulled(lambda x, k: depthwise_conv2d(x, k, enlarge=enlarge, form=form), theirs, x, kernel)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 7), (7, 3), (4, 4)])
def test_of_single_pixels(inputs, outputs):
    x, kernel = normal(0, 2, 5, 4, inputs), normal(1, 1, 1, inputs, outputs)
    check_pulled(pointwise_conv2d, lambda x, k: direct(x, k, groups=1), x, kernel)


def test_bad_input_of_single_pixels():
    for shape in [(3, 3, 4, 2), (1, 1, 3, 2)]:
        with pytest.raises(ValueError, match=r"expected \[B, H, W, C\] and \[1, 1, C, F\]"):
            pointwise_conv2d(jnp.zeros((1, 2, 2, 4)), jnp.zeros(shape))
    with pytest.raises(ValueError, match="precision must be one of"):
        pointwise_conv2d(jnp.zeros((1, 2, 2, 4)), jnp.zeros((1, 1, 4, 2)), precision="low")


@pytest.mark.parametrize("enlarge", [1, 2])
def test_what_a_platform_gets(enlarge):
    x, kernel = jnp.zeros((2, 8, 8, 4)), jnp.zeros((5, 5, 1, 4))
    loss = lambda x, k: depthwise_conv2d(x, k, enlarge=enlarge).sum()
    assert made_for_cpus(jax.grad(loss, (0, 1)), x, kernel, platform="cpu")
    assert not made_for_cpus(jax.grad(loss, (0, 1)), x, kernel, platform="tpu")


@pytest.mark.parametrize("enlarge", [1, 2])
def test_bfloat16_sums_in_float32(enlarge):
    side = 32 // enlarge
    x, kernel, g = normal(0, 4, side, side, 2), normal(1, 5, 5, 1, 2), normal(2, 4, 32, 32, 2)
    half = lambda *arrays: [a.astype(jnp.bfloat16) for a in arrays]
    loss = lambda x, k, g: (depthwise_conv2d(x, k, enlarge=enlarge) * g).astype(jnp.float32).sum()
    found = jax.grad(loss, 1)(*half(x, kernel, g))
    assert found.dtype == jnp.bfloat16
    expected = jax.grad(loss, 1)(x, kernel, g)
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("x", "kernel", "knobs", "message"),
    [
        ((1, 4, 4, 3), (5, 5, 1, 2), {}, r"expected \[B, H, W, C\] and \[K, K, 1, C\]"),
        ((1, 4, 4, 3), (5, 5, 3, 3), {}, r"expected \[B, H, W, C\] and \[K, K, 1, C\]"),
        ((1, 4, 4, 3), (4, 4, 1, 3), {}, "a square with an odd side"),
        ((1, 4, 4, 3), (5, 5, 1, 3), {"form": "fast"}, "form must be one of"),
        ((1, 4, 4, 3), (5, 5, 1, 3), {"enlarge": 0}, "enlarge must be at least 1, got 0"),
    ],
)
def test_bad_input(x, kernel, knobs, message):
    with pytest.raises(ValueError, match=message):
        depthwise_conv2d(jnp.zeros(x), jnp.zeros(kernel), **knobs)
    with pytest.raises(ValueError, match="one floating-point type"):
        depthwise_conv2d(jnp.zeros((1, 4, 4, 3)), jnp.zeros((5, 5, 1, 3), jnp.bfloat16))


# --- batch normalisation and Swish -----------------------------------------------------------------------


class Plain(nn.Module):
    """The same of Flax's parts, whose gradient JAX finds."""

    swish: bool

    @nn.compact
    def __call__(self, x):
        y = nn.BatchNorm(use_running_average=False, momentum=0.95, use_fast_variance=False, name="norm")(x)
        return nn.swish(y) if self.swish else y


@pytest.mark.parametrize("swish", [True, False])
def test_values_gradients_and_statistics(swish):
    x, g = 3 + 2 * normal(0, 4, 3, 3, 5), normal(1, 4, 3, 3, 5)
    own = {"scale": 1 + 0.5 * normal(2, 5), "bias": normal(3, 5)}
    before = {"mean": normal(4, 5), "var": jnp.abs(normal(5, 5))}

    def ours(own, x):
        return BatchNormSwish(swish).apply(
            {"params": own, "batch_stats": before}, x, True, mutable=["batch_stats"]
        )

    def theirs(own, x):
        variables = {"params": {"norm": own}, "batch_stats": {"norm": before}}
        return Plain(swish).apply(variables, x, mutable=["batch_stats"])

    (y, new), (expected, flaxes) = ours(own, x), theirs(own, x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    slopes, theirs_slopes = (
        jax.grad(lambda o, x, f=f: (f(o, x)[0] * g).sum(), (0, 1))(own, x) for f in (ours, theirs)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), slopes, theirs_slopes)
    np.testing.assert_allclose(new["batch_stats"]["mean"], flaxes["batch_stats"]["norm"]["mean"], rtol=1e-5)
    # Flax keeps the biased variance.
    unbiased = 0.95 * before["var"] + 0.05 * x.var(axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(new["batch_stats"]["var"], unbiased, rtol=1e-5)
    still = BatchNormSwish(swish).apply({"params": own, "batch_stats": before}, x)
    mean, var, scale, bias = map(np.asarray, (before["mean"], before["var"], own["scale"], own["bias"]))
    h = (np.asarray(x) - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(still, h / (1 + np.exp(-h)) if swish else h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("enlarge", [1, 2])
def test_a_batch_on_several_devices(enlarge):
    x, kernel = normal(0, 4, 4, 4, 3), normal(1, 5, 5, 1, 3)
    loss = lambda x, k: jnp.square(depthwise_conv2d(x, k, enlarge=enlarge)).sum()
    slopes = jax.jit(jax.grad(loss, (0, 1)))
    spread = jax.device_put(x, training.batch_sharding(training.make_mesh()))
    for ours, alone in zip(slopes(spread, kernel), slopes(x, kernel), strict=True):
        np.testing.assert_allclose(ours, alone, rtol=1e-5, atol=1e-4)


def test_statistics_of_repeated_values():
    x = normal(0, 2, 3, 3, 4)
    twice = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    variables = BatchNormSwish().init(jax.random.key(0), x)
    found, expected = (
        BatchNormSwish(repeats=repeats).apply(variables, x, True, mutable=["batch_stats"])
        for repeats, x in ((4, x), (1, twice))
    )
    np.testing.assert_allclose(found[0], expected[0][:, ::2, ::2], atol=1e-6)
    for name in ("mean", "var"):
        np.testing.assert_allclose(
            found[1]["batch_stats"][name], expected[1]["batch_stats"][name], rtol=1e-6, atol=1e-7
        )


def test_statistics_of_all_devices():
    x, g = 1 + normal(0, 4, 2, 3, 3, 5), normal(1, 4, 2, 3, 3, 5)
    own = {"scale": 1 + 0.5 * normal(2, 5), "bias": normal(3, 5)}
    stats = {"mean": jnp.zeros(5), "var": jnp.ones(5)}

    def run(axis_name, own, x, g):
        layer = BatchNormSwish(axis_name=axis_name)

        def loss(own, x):
            y, new = layer.apply({"params": own, "batch_stats": stats}, x, True, mutable=["batch_stats"])
            return (y * g).sum(), new["batch_stats"]

        slopes, new = jax.grad(loss, (0, 1), has_aux=True)(own, x)
        return slopes, new

    every = jax.pmap(lambda x, g: run("devices", own, x, g), axis_name="devices")
    (by_own, by_x), new = every(x, g)
    (alone_own, alone_x), alone = run(None, own, x.reshape(8, 3, 3, 5), g.reshape(8, 3, 3, 5))
    np.testing.assert_allclose(by_x.reshape(alone_x.shape), alone_x, rtol=1e-3, atol=1e-5)
    for name in own:
        np.testing.assert_allclose(by_own[name].sum(axis=0), alone_own[name], rtol=1e-3, atol=1e-4)
    for name in stats:
        np.testing.assert_allclose(new[name], jnp.broadcast_to(alone[name], new[name].shape), rtol=1e-5)


def test_statistics_are_float32_of_bfloat16():
    x = (1000 + normal(0, 64, 4, 4, 2)).astype(jnp.bfloat16)
    layer = BatchNormSwish(swish=False, dtype=jnp.bfloat16)
    y, new = layer.apply(layer.init(jax.random.key(0), x), x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16 and new["batch_stats"]["mean"].dtype == jnp.float32
    exact = x.astype(jnp.float32)
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.05 * exact.mean(axis=(0, 1, 2)), rtol=1e-5)
