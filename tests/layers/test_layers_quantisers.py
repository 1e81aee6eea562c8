"""The quantiser layers: one signature, frozen in evaluation, the same on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.layers.quantisers import FiniteScalarQuantiser, ResidualQuantiser, VectorQuantiser

LAYERS = {
    "ema": VectorQuantiser(codes=16),
    "loss": VectorQuantiser(codes=16, update="loss"),
    "kmeans": VectorQuantiser(codes=16, initial="kmeans", revive_below=0.1),
    "cosine": VectorQuantiser(codes=16, cosine=True, initial="normal"),
    "low": VectorQuantiser(codes=16, code_dim=3, gradient="rotation"),
    "cosine_low_loss": VectorQuantiser(codes=16, code_dim=3, cosine=True, update="loss", initial="normal"),
    "fsq": FiniteScalarQuantiser((4, 3)),
    "residual": ResidualQuantiser(3, 16, initial="kmeans"),
    "residual_loss": ResidualQuantiser(2, 16, update="loss", initial="normal"),
}


def features(batch=8, seed=0, dim=8):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, 3, 4, dim)), jnp.float32)


def start(layer, z):
    return layer.init(jax.random.key(0), z)


def train(layer, variables, z, steps=1):
    step = jax.jit(lambda v, k: layer.apply(v, z, train=True, key=k, mutable=["codebook"]))
    for number in range(steps):
        output, new = step(variables, jax.random.key(number))
        variables = {**variables, **new}
    return output, variables


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_one_signature_for_all(name):
    layer, z = LAYERS[name], features()
    variables = start(layer, z)
    _, variables = train(layer, variables, z, 3)
    output = jax.jit(layer.apply)(variables, z)
    assert output.values.shape == z.shape and output.values.dtype == jnp.float32
    axes = (layer.depth,) if layer.code_axes else ()
    assert output.codes.shape == (*z.shape[:-1], *axes) and output.codes.dtype == jnp.int32
    assert output.codes.min() >= 0 and output.codes.max() < layer.code_count
    assert output.commitment.shape == output.codebook.shape == (8,)
    assert output.counts.shape == (layer.code_count,) and output.counts.sum() == output.codes.size
    looked_up = layer.apply(variables, output.codes, method="lookup")
    np.testing.assert_allclose(looked_up, output.values, atol=1e-5)
    # One example alone gives the same, and so does a vector without map axes.
    one = layer.apply(variables, z[:1])
    np.testing.assert_array_equal(one.codes, output.codes[:1])
    np.testing.assert_allclose(one.commitment, output.commitment[:1], rtol=1e-6)
    flat = layer.apply(variables, z[:, 0, 0])
    np.testing.assert_array_equal(flat.codes, output.codes[:, 0, 0])


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_evaluation_changes_nothing_and_needs_no_key(name):
    layer, z = LAYERS[name], features()
    variables = start(layer, z)
    _, new = layer.apply(variables, z, mutable=["codebook"])
    before = variables.get("codebook", {})
    jax.tree.map(np.testing.assert_array_equal, new.get("codebook", before), before)
    layer.apply(variables, z, train=True, key=jax.random.key(0))  # not mutable: read only


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_reach_the_encoder(name):
    layer, z = LAYERS[name], features()
    variables = start(layer, z)
    weights = features(seed=1)

    def loss(params, z):
        output = layer.apply({**variables, "params": params}, z)
        return (output.values * weights).sum() + output.commitment.sum() + output.codebook.sum()

    params = variables.get("params", {})
    grads, dz = jax.grad(loss, (0, 1))(params, z)
    assert np.isfinite(dz).all() and np.asarray(dz).any()
    for path, leaf in jax.tree.leaves_with_path(grads):
        assert np.isfinite(leaf).all() and np.asarray(leaf).any(), path


def test_losses_are_the_two_terms_of_the_paper():
    layer, z = LAYERS["loss"], features()
    variables = start(layer, z)
    output = layer.apply(variables, z)
    expected = np.square(np.asarray(z - output.values)).reshape(8, -1).mean(1)
    np.testing.assert_allclose(output.commitment, expected, rtol=1e-5)
    np.testing.assert_allclose(output.codebook, expected, rtol=1e-5)
    ema = LAYERS["ema"].apply(start(LAYERS["ema"], z), z)
    assert not np.asarray(ema.codebook).any()  # its codes follow averages
    # The values pass the gradient on as it is.
    dz = jax.grad(lambda z: layer.apply(variables, z).values.sum())(z)
    np.testing.assert_array_equal(dz, jnp.ones_like(dz))


def test_the_codes_of_a_batch_are_those_before_its_update():
    layer, z = LAYERS["ema"], features()
    variables = start(layer, z)
    frozen = layer.apply(variables, z)
    output, new = train(layer, variables, z)
    np.testing.assert_array_equal(output.codes, frozen.codes)
    np.testing.assert_array_equal(output.values, frozen.values)
    assert np.abs(new["codebook"]["codes"] - variables["codebook"]["codes"]).max() > 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_features_are_quantised_in_float32(dtype):
    layer, z = LAYERS["ema"], features().astype(dtype)
    variables = start(layer, z)
    output = layer.apply(variables, z)
    exact = layer.apply(variables, z.astype(jnp.float32))
    np.testing.assert_array_equal(output.codes, exact.codes)
    assert output.values.dtype == output.commitment.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.slow
def test_kmeans_runs_on_the_first_batch_alone():
    layer, z = VectorQuantiser(codes=4, initial="kmeans", decay=0.999999), features()
    output, first = train(layer, start(layer, z), z)
    assert output.commitment.mean() < 0.9 * jnp.square(z).mean()
    other = 100.0 + features(seed=3)
    _, second = train(layer, first, other)
    assert np.abs(second["codebook"]["codes"]).min(0).max() < 10  # else all codes would be near 100


@pytest.mark.parametrize("revive", [0.0, 0.5])
def test_a_collapsed_codebook_recovers_with_revival_only(revive):
    """Codes far away from all vectors but one: without revival one code takes everything for good."""
    layer, z = VectorQuantiser(codes=16, revive_below=revive), features()
    variables = start(layer, z)
    bad = jnp.full((16, 8), 50.0).at[0].set(0.0)
    variables = {"codebook": {**variables["codebook"], "codes": bad}}
    output, variables = train(layer, variables, z, 30)
    used = int((output.counts > 0).sum())
    assert used == 1 if not revive else used >= 15
    error = float(output.commitment.mean() / jnp.square(z - z.mean((0, 1, 2), keepdims=True)).mean())
    assert error > 0.95 if not revive else error < 0.7


@pytest.mark.slow
def test_more_codebooks_leave_a_smaller_rest():
    z = features(batch=32)
    errors = []
    for depth in (1, 2, 4):
        layer = ResidualQuantiser(depth, 16, initial="kmeans", decay=0.9)
        _, variables = train(layer, start(layer, z), z, 20)
        errors.append(float(jnp.square(layer.apply(variables, z).values - z).mean()))
    assert errors[0] > 1.2 * errors[1] > 1.44 * errors[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ema", "kmeans", pytest.param("residual", marks=pytest.mark.slow), "low"])
def test_devices_together_learn_the_codebook_of_one(name):
    """pmap with an axis name, and jit over shards of the batch, against one device."""
    layer, z = LAYERS[name], features(batch=16)
    variables, key = start(layer, z), jax.random.key(7)

    def step(layer):
        return lambda v, z: layer.apply(v, z, train=True, key=key, mutable=["codebook"])

    count = min(jax.device_count(), 8)
    alone, one = jax.jit(step(layer))(variables, z)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    together, many = jax.jit(step(layer))(variables, jax.device_put(z, sharding))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), many, one)
    np.testing.assert_array_equal(together.codes, alone.codes)
    mapped = layer.clone(axis_name="data")
    shards = z.reshape(count, -1, *z.shape[1:])
    out, each = jax.pmap(step(mapped), axis_name="data", in_axes=(None, 0))(variables, shards)
    np.testing.assert_array_equal(out.counts[0], alone.counts)
    for device in range(count):
        jax.tree.map(lambda a, b, d=device: np.testing.assert_allclose(a[d], b, atol=2e-5), each, one)


@pytest.mark.slow
def test_wrong_fields_are_sentences():
    z = features()
    for fields, words in (
        ({"update": "adam"}, "update must be one of ema, loss, got 'adam'"),
        ({"initial": "zeros"}, "initial must be one of uniform, normal, kmeans"),
        ({"gradient": "none"}, "gradient must be one of straight_through, rotation"),
        ({"codes": 0}, "codes must be at least 1 and revive_below at least 0"),
        ({"update": "loss", "revive_below": 1.0}, 'revive_below and initial="kmeans" need update="ema"'),
    ):
        with pytest.raises(ValueError, match=words):
            VectorQuantiser(**fields).init(jax.random.key(0), z)
    with pytest.raises(ValueError, match="key is needed in training"):
        LAYERS["kmeans"].apply(start(LAYERS["kmeans"], z), z, train=True, mutable=["codebook"])
    with pytest.raises(ValueError, match="depth must be at least 1"):
        ResidualQuantiser(0).init(jax.random.key(0), z)
