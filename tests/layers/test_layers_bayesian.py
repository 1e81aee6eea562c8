"""Bayesian forward passes: moments against Jacobians of ordinary layers, gradients against closed forms."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import losses
from vaesr.distributions import flatten_paths, mean_field, mean_field_scales, sample_mean_field
from vaesr.layers import Conv, Trunk, bayesian_apply

BATCH, DRAWS = 3, 4000
# Every layer with an input of one example.
LAYERS = {
    "dense": (nn.Dense(4), (5,)),
    "dense on a sequence": (nn.Dense(2), (3, 5)),
    "dense general": (nn.DenseGeneral((2, 3), axis=(-2, -1)), (2, 3)),
    "dense general, other axis": (nn.DenseGeneral(3, axis=1), (4, 2)),
    "conv": (nn.Conv(3, (3, 3)), (5, 4, 2)),
    "conv strided": (nn.Conv(2, (3, 2), strides=(2, 1), padding="VALID"), (6, 5, 2)),
    "conv dilated": (nn.Conv(2, (3, 3), kernel_dilation=2, input_dilation=(1, 2), padding=1), (5, 4, 2)),
    "conv grouped": (nn.Conv(4, (3, 3), feature_group_count=2, use_bias=False), (4, 4, 4)),
    "conv 1d circular": (nn.Conv(3, (3,), padding="CIRCULAR"), (6, 2)),
    "conv masked": (nn.Conv(2, (2,), mask=np.array([[[1.0, 0.5]], [[0.0, 2.0]]])), (5, 1)),
    "conv transposed": (nn.ConvTranspose(2, (3, 3), strides=(2, 2)), (3, 3, 2)),
    "conv unshared": (nn.ConvLocal(2, (2, 2)), (3, 3, 2)),
    "our conv": (Conv(3), (5, 4, 2)),
}
CASES = [(name, how) for name in LAYERS for how in ("local", "flipout")] + [("conv strided", "weights")]


def _normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _filled(net: nn.Module, x: jax.Array) -> dict:
    """Parameters without compiling `init`."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)["params"]
    leaves, structure = jax.tree.flatten(shapes)
    values = [0.5 * _normal(i, *leaf.shape) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, values)


def _case(name: str) -> tuple[nn.Module, jax.Array, dict]:
    layer, shape = LAYERS[name]
    x = _normal(100, BATCH, *shape)
    return (
        layer,
        x,
        mean_field(_filled(layer, x), scale=lambda path, leaf: 0.3 if path[-1] == "bias" else 0.2),
    )


def _covariance(layer: nn.Module, posterior: dict, x: jax.Array) -> np.ndarray:
    """The exact covariance of one example's outputs, `[B, n, n]`: the layer is linear in its weights."""
    jacobian = jax.jit(jax.jacobian(lambda p: layer.apply({"params": p}, x).reshape(BATCH, -1)))
    pieces = jax.tree.map(
        lambda j, s: j.reshape(*j.shape[:2], -1) * s.reshape(1, 1, -1),
        jacobian(posterior["mean"]),
        mean_field_scales(posterior),
    )
    scaled = np.concatenate([np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(pieces)], axis=2)
    return np.einsum("bnw,bmw->bnm", scaled, scaled)


def _draws(how: str, layer: nn.Module, posterior: dict, x: jax.Array, count: int = DRAWS) -> np.ndarray:
    forward = bayesian_apply(layer, how=how)
    keys = jax.random.split(jax.random.key(7), count)
    outputs = jax.jit(functools.partial(forward, position=jnp.arange(len(x))))(posterior, x, keys=keys)
    assert outputs.dtype == jnp.float32
    return np.asarray(outputs, np.float64).reshape(count, len(x), -1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "how"), CASES)
def test_outputs_have_the_exact_mean_and_variance(name, how):
    layer, x, posterior = _case(name)
    outputs, covariance = _draws(how, layer, posterior, x), _covariance(layer, posterior, x)
    mean = np.asarray(layer.apply({"params": posterior["mean"]}, x)).reshape(BATCH, -1)
    variance = np.einsum("bnn->bn", covariance)
    z = (outputs - mean) / np.sqrt(variance)
    # The largest of about 100 standard normal errors stays below 4.5.
    assert np.abs(z.mean(axis=0)).max() < 4.5 / np.sqrt(DRAWS)
    assert np.abs((z**2).mean(axis=0) - 1).max() < 4.5 * np.sqrt(2 / DRAWS)
    if how == "local":  # the outputs are independent: across units, and across places by design
        covariance = np.einsum("bn,nm->bnm", variance, np.eye(variance.shape[1]))
    found = np.einsum("sbn,sbm->bnm", outputs - mean, outputs - mean) / DRAWS
    scale = np.sqrt(np.einsum("bn,bm->bnm", variance, variance) + covariance**2)
    assert (np.abs(found - covariance) / scale).max() < 5 / np.sqrt(DRAWS)


@pytest.mark.slow
def test_examples_share_the_draw_or_not():
    """Between examples: one draw of weights correlates them, local noise and Flipout's signs don't."""
    layer, x, posterior = _case("dense")
    x = jnp.ones_like(x)
    for how, expected in (("weights", 1.0), ("local", 0.0), ("flipout", 0.0)):
        outputs = _draws(how, layer, posterior, x)
        correlation = np.corrcoef(outputs[:, 0, 0], outputs[:, 1, 0])[0, 1]
        assert abs(correlation - expected) < 5 / np.sqrt(DRAWS)


class Net(nn.Module):
    """Two dense layers of Hinton and van Camp."""

    hidden: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.hidden)(x))
        return nn.Dense(2)(x)


def _regression(batch: int = 4) -> tuple[dict, jax.Array, jax.Array]:
    x, t = _normal(1, batch, 3), _normal(2, batch, 2)
    return mean_field(_filled(Net(), x), scale=lambda path, leaf: 0.1 if path[-1] == "bias" else 0.3), x, t


@pytest.mark.slow
@pytest.mark.parametrize("how", ["local", "flipout", "weights"])
def test_loss_and_gradient_are_unbiased(how):
    """Against the exact expected squared error of a network with one hidden layer."""
    posterior, x, t = _regression()
    exact, exact_gradient = jax.value_and_grad(lambda q: losses.expected_squared_error(q, x, t).mean())(
        posterior
    )
    forward = bayesian_apply(Net(), how=how)

    def error(q, key):
        y = forward(q, x, keys=key[None], position=jnp.arange(4))[0]
        return jnp.square(y - t).sum(axis=1).mean()

    count = 20_000
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(error), in_axes=(None, 0)))(
        posterior, jax.random.split(jax.random.key(6), count)
    )
    values = np.asarray(values, np.float64)
    assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(count)

    def close(sampled, expected):
        sampled = np.asarray(sampled, np.float64)
        error = sampled.std(axis=0) / np.sqrt(count) + 1e-6
        assert (np.abs(sampled.mean(axis=0) - expected) / error).max() < 4.5

    jax.tree.map(close, gradients, exact_gradient)


@pytest.mark.slow
def test_gradient_noise_is_lower_than_with_shared_weights():
    """Measured here, batch of 64: 0.12 (local) and 0.21 (Flipout) of the variance with one shared draw."""
    posterior, x, t = _regression(64)

    def variance(how: str) -> float:
        forward = bayesian_apply(Net(), how=how)

        def error(q, key):
            y = forward(q, x, keys=key[None], position=jnp.arange(64))[0]
            return jnp.square(y - t).sum(axis=1).mean()

        gradients = jax.jit(jax.vmap(jax.grad(error), in_axes=(None, 0)))(
            posterior, jax.random.split(jax.random.key(8), 500)
        )
        return float(sum(leaf.var(axis=0).sum() for leaf in jax.tree.leaves(gradients)))

    shared, local, flipout = (variance(how) for how in ("weights", "local", "flipout"))
    print(f"gradient variance: local {local / shared:.3f}, flipout {flipout / shared:.3f} of shared weights")
    assert local < 0.2 * shared
    assert flipout < 0.35 * shared


# --- whole networks --------------------------------------------------------------------------------------


class Block(nn.Module):
    """A residual convolution."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        return x + nn.silu(nn.Conv(4, (3, 3), use_bias=False, dtype=self.dtype)(x))


class Nested(nn.Module):
    """Layers in modules, a norm and a head."""

    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x, *, flip: bool = False):
        x = (nn.remat(Block) if self.remat else Block)(dtype=self.dtype, name="block")(
            x[:, ::-1] if flip else x
        )
        x = nn.LayerNorm(dtype=self.dtype, use_bias=False)(x)
        return nn.Dense(3, dtype=self.dtype)(x.reshape(x.shape[0], -1))


@functools.cache
def _nested(**fields) -> tuple[nn.Module, dict, jax.Array]:
    net, x = Nested(**fields), _normal(3, 6, 4, 4, 4)
    return net, mean_field(_filled(net, x), scale=0.2), x


@pytest.mark.slow
@pytest.mark.parametrize("how", ["local", "flipout", "weights"])
def test_noise_does_not_depend_on_how_the_batch_is_cut(key, how):
    net, posterior, x = _nested()
    forward = jax.jit(
        functools.partial(bayesian_apply(net, how=how), posterior, keys=jax.random.split(key, 2))
    )
    whole = forward(x, position=jnp.arange(6))
    assert whole.shape == (2, 6, 3)
    assert np.abs(whole[0] - whole[1]).min() > 0  # keys differ
    # Three of the examples, in another order, among three strangers.
    chosen = jnp.array([4, 1, 2])
    mixed = forward(
        jnp.concatenate([_normal(9, 3, 4, 4, 4), x[chosen]]), position=jnp.array([7, 8, 9, 4, 1, 2])
    )
    np.testing.assert_allclose(mixed[:, 3:], whole[:, chosen], rtol=1e-4, atol=1e-5)
    same = forward(jnp.broadcast_to(x[:1], x.shape), position=jnp.arange(6))[0]
    assert (same[0] == same[1]).all() == (how == "weights")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["local", "flipout", "weights"])
def test_a_batch_of_one(key, how):
    layer, x, posterior = _case("dense")
    forward = functools.partial(bayesian_apply(layer, how=how), posterior, keys=key[None])
    one = forward(x[2:], position=jnp.array([2]))
    np.testing.assert_allclose(one[0, 0], forward(x, position=jnp.arange(3))[0, 2], rtol=1e-5)


@pytest.mark.slow
def test_weights_are_those_of_sample_mean_field(key):
    net, posterior, x = _nested()
    keys = jax.random.split(key, 3)
    run = jax.jit(functools.partial(bayesian_apply(net, how="weights"), position=jnp.arange(6)))
    outputs = run(posterior, x, keys=keys)
    apply = jax.jit(lambda key: net.apply({"params": sample_mean_field(posterior, key)}, x))
    for i in range(3):
        expected = apply(keys[i])
        np.testing.assert_allclose(outputs[i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["local", "flipout", "weights"])
def test_without_variance_it_is_the_network(key, how):
    net, posterior, x = _nested()
    fixed = {
        "mean": posterior["mean"],
        "rho": jax.tree.map(lambda r: jnp.full_like(r, -jnp.inf), posterior["rho"]),
    }
    expected = net.apply({"params": posterior["mean"]}, x)
    forward = bayesian_apply(net, how=how)
    run = jax.jit(lambda q: forward(q, x, keys=key[None], position=jnp.arange(6))[0])
    for q in (fixed, {"mean": posterior["mean"], "rho": {}}):
        np.testing.assert_allclose(run(q), expected, rtol=1e-4, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda q: jnp.square(run(q)).sum()))(fixed)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_gradient_is_finite_where_inputs_are_zero(key):
    """With inputs of 0 and a deterministic bias the variance is exactly 0, also from our Winograd form."""
    net = Conv(16, form="winograd")
    x = jnp.zeros((2, 8, 8, 16)).at[0, 0, 0].set(3.0)
    params = _filled(net, x)
    posterior = mean_field(params, select=lambda path, leaf: path[-1] == "kernel")
    forward = bayesian_apply(net)
    run = lambda q: forward(q, x, keys=key[None], position=jnp.arange(2))[0]
    outputs = run(posterior)
    np.testing.assert_allclose(outputs[1], jnp.broadcast_to(params["bias"], outputs[1].shape), rtol=1e-6)
    np.testing.assert_allclose(outputs[0, 4:, 4:], outputs[1, 4:, 4:], atol=1e-5)
    gradient = jax.jit(jax.grad(lambda q: jnp.square(run(q)).sum()))(posterior)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_partly_random_layers_keep_their_deterministic_weights():
    layer, x, _ = _case("dense")
    params = _filled(layer, x)
    for name in ("kernel", "bias"):
        posterior = mean_field(params, scale=0.2, select=lambda path, leaf, name=name: path[-1] == name)
        variance = np.einsum("bnn->bn", _covariance(layer, posterior, x))
        for how in ("local", "flipout"):
            found = _draws(how, layer, posterior, x).var(axis=0)
            np.testing.assert_allclose(found, variance, rtol=4.5 * np.sqrt(2 / DRAWS))


@pytest.mark.parametrize("how", ["local", "flipout"])
def test_bfloat16_networks_give_float32_outputs(key, how):
    x = _normal(3, 3, 4, 4, 4)
    posterior = mean_field(_filled(Block(), x), scale=0.2)
    run = lambda dtype: jax.jit(bayesian_apply(Block(dtype=dtype), how=how))(
        posterior, x.astype(dtype), keys=key[None], position=jnp.arange(3)
    )
    half, wide = run(jnp.bfloat16), run(jnp.float32)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, wide, atol=0.05, rtol=0.05)
    assert np.abs(half - wide).max() > 0  # it did compute in half precision


def test_float16_scales_do_not_vanish(key):
    layer, x = nn.Dense(4, dtype=jnp.float16), jnp.full((3, 5), 1e-2)
    posterior = mean_field({"kernel": jnp.zeros((5, 4)), "bias": jnp.zeros(4)}, scale=1e-3)
    outputs = _draws("local", layer, posterior, x)
    np.testing.assert_allclose(outputs.std(axis=0), 1e-3 * np.sqrt(1 + 5e-4), rtol=0.06)


@pytest.mark.slow
def test_arguments_reach_the_network(key):
    net, posterior, x = _nested()
    forward = bayesian_apply(net, how="weights")
    run = functools.partial(forward, posterior, keys=key[None], position=jnp.arange(6))
    np.testing.assert_allclose(run(x, flip=True), run(x[:, ::-1]), rtol=1e-5, atol=1e-6)

    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=True)(nn.Dense(3)(x)), self.param("s", nn.zeros, ())

    collections = Normed().init(key, jnp.ones((2, 3)))
    statistics = jax.tree.map(lambda s: s + 2.0, collections["batch_stats"])
    posterior = mean_field(collections["params"], scale=1e-6)
    outputs, scalar = bayesian_apply(Normed())(
        posterior,
        jnp.ones((2, 3)),
        keys=key[None],
        position=jnp.arange(2),
        variables={"batch_stats": statistics},
    )
    expected, _ = Normed().apply(
        {"params": collections["params"], "batch_stats": statistics}, jnp.ones((2, 3))
    )
    np.testing.assert_allclose(outputs[0], expected, atol=1e-4)
    assert scalar.shape == (1,)


@pytest.mark.slow
def test_raw_keys_are_taken(key):
    layer, x, posterior = _case("dense")
    raw = jax.random.split(jax.random.PRNGKey(3), 2)
    outputs = bayesian_apply(layer)(posterior, x, keys=raw, position=jnp.arange(3))
    typed = bayesian_apply(layer)(posterior, x, keys=jax.random.wrap_key_data(raw), position=jnp.arange(3))
    np.testing.assert_array_equal(outputs, typed)


# --- what falls back to one draw of the weights ----------------------------------------------------------


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(3, name="shared")
        return layer(layer(x))


@pytest.mark.slow
def test_a_layer_called_twice():
    """Flipout gives both calls the same weights; local noise would not, and says so."""
    x = _normal(1, BATCH, 3)
    posterior = mean_field(_filled(Twice(), x), scale=0.5)
    with pytest.raises(ValueError, match=r"'shared' is called twice.*flipout"):
        bayesian_apply(Twice())(
            posterior, x, keys=jax.random.split(jax.random.key(0), 1), position=jnp.arange(3)
        )
    # y = w (w x) has third and fourth moments of w: only one and the same w gives them.
    count = 20_000
    shared = _draws("weights", Twice(), posterior, x, count)
    flipout = _draws("flipout", Twice(), posterior, x, count)
    for moment in (lambda y: y, np.square):
        a, b = moment(shared), moment(flipout)
        error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / count)
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) / error).max() < 4.5
    assert np.abs(shared.mean(axis=0) - Twice().apply({"params": posterior["mean"]}, x)).max() > 0.1


class Scanned(nn.Module):
    """A recurrent net: one dense layer, many steps inside nn.scan."""

    @nn.compact
    def __call__(self, x):
        class Cell(nn.Module):
            @nn.compact
            def __call__(self, carry, x):
                carry = nn.Dense(3)(carry) + x
                return carry, carry

        scan = nn.scan(Cell, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        return scan()(jnp.zeros((x.shape[0], 3)), x)[0]


class Merged(nn.Module):
    """A layer whose first axis is not the batch."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], 3)


class Normalised(nn.Module):
    """A layer that computes with other weights than its parameters."""

    @nn.compact
    def __call__(self, x):
        return nn.WeightNorm(nn.Dense(3))(x)


@pytest.mark.parametrize("how", ["local", "flipout"])
@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (Scanned(), (4, 3)),
        (Merged(), (4, 3)),
        (Normalised(), (3,)),
        (nn.LayerNorm(), (3,)),
        (Trunk(4, 2, scan=True), (4, 4, 4)),
        (nn.ConvTranspose(2, (5,), padding="CIRCULAR"), (3, 2)),
        (nn.DenseGeneral(2, axis=-1, batch_dims=(0,)), (3, 2)),
        (nn.Dense(2, dot_general=jax.lax.dot_general), (3,)),
    ],
    ids=["scan", "merged axes", "weight norm", "layer norm", "trunk", "folded", "per place", "own product"],
)
def test_everything_else_uses_one_draw_of_the_weights(key, net, shape, how):
    x = _normal(1, BATCH, *shape)
    posterior = mean_field(_filled(net, x), scale=0.3)
    if isinstance(net, Trunk):  # its last layer stands outside the scan
        posterior["rho"].pop("body_out")
    run = lambda how: jax.jit(
        lambda q: bayesian_apply(net, how=how)(q, x, keys=key[None], position=jnp.arange(BATCH))
    )(posterior)
    np.testing.assert_allclose(run(how), run("weights"), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["local", "flipout"])
def test_rematerialised_blocks_run_and_give_finite_gradients(key, how):
    net, posterior, x = _nested(remat=True)
    forward = bayesian_apply(net, how=how)
    run = lambda q: forward(q, x, keys=key[None], position=jnp.arange(6))[0]
    gradient = jax.jit(jax.grad(lambda q: jnp.square(run(q)).sum()))(posterior)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.abs(flatten_paths(gradient["rho"])[("block", "Conv_0", "kernel")]).max() > 0


@pytest.mark.slow
def test_checks(key):
    layer, x, posterior = _case("dense")
    with pytest.raises(ValueError, match="how must be one of local, flipout, weights, got 'lrt'"):
        bayesian_apply(layer, how="lrt")
    forward = bayesian_apply(layer)
    with pytest.raises(ValueError, match=r"keys must be \[S\].*\(\)"):
        forward(posterior, x, keys=key, position=jnp.arange(3))
    with pytest.raises(ValueError, match=r"position \[B\].*\(3, 5\) and \(2,\)"):
        forward(posterior, x, keys=key[None], position=jnp.arange(2))
    with pytest.raises(ValueError, match="mutable"):
        forward(posterior, x, keys=key[None], position=jnp.arange(3), mutable=["batch_stats"])
