"""Ensembles and dropout at prediction, against one network at a time."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.layers import dropout_apply, ensemble_apply
from vaesr.objectives import predictive


class Net(nn.Module):
    """A hidden layer with dropout."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dropout(self.rate, deterministic=not train)(nn.relu(nn.Dense(64)(x)))
        return nn.Dense(2)(x)


NET = Net()
INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
POSITION = jnp.arange(5)


@pytest.mark.slow
def test_members_equal_single_networks():
    init = lambda key: NET.init(key, INPUTS)["params"]
    members = [init(key) for key in jax.random.split(jax.random.key(0), 3)]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    outputs = ensemble_apply(NET)(
        params, INPUTS, keys=jax.random.split(jax.random.key(1), 1), position=POSITION
    )
    alone = [NET.apply({"params": member}, INPUTS) for member in members]
    np.testing.assert_allclose(outputs, jnp.stack(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_members_gradient_is_its_own():
    init = lambda key: NET.init(key, INPUTS)["params"]
    params = jax.vmap(init)(jax.random.split(jax.random.key(0), 2))
    forward = ensemble_apply(NET)
    keys = jax.random.split(jax.random.key(1), 1)
    gradient = jax.grad(lambda p: jnp.square(forward(p, INPUTS, keys=keys, position=POSITION)).sum())(params)
    first = jax.tree.map(lambda leaf: leaf[0], params)
    alone = jax.grad(lambda p: jnp.square(NET.apply({"params": p}, INPUTS)).sum())(first)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-5), gradient, alone)


def test_dropout_masks_belong_to_positions_and_keys():
    params = NET.init(jax.random.key(0), INPUTS)["params"]
    forward, keys = jax.jit(dropout_apply(NET)), jax.random.split(jax.random.key(1), 4)
    whole = forward(params, INPUTS, keys=keys, position=POSITION)
    assert whole.shape == (4, 5, 2) and whole.dtype == jnp.float32
    part = forward(params, INPUTS[2:], keys=keys[1:], position=POSITION[2:])
    np.testing.assert_allclose(part, whole[1:, 2:], rtol=1e-5, atol=1e-6)
    same = forward(params, jnp.repeat(INPUTS[:1], 5, axis=0), keys=keys, position=POSITION)
    assert len(np.unique(same[..., 0])) == 20  # every draw of every example has a mask of its own


@pytest.mark.slow
def test_the_mean_over_masks_is_the_plain_network():
    # exactly so, because the outputs are linear in the dropped units
    params = NET.init(jax.random.key(0), INPUTS)["params"]
    keys = jax.random.split(jax.random.key(1), 4000)
    draws = dropout_apply(NET)(params, INPUTS, keys=keys, position=POSITION)
    error = np.asarray(draws.mean(0) - NET.apply({"params": params}, INPUTS))
    assert (np.abs(error) < 5 * np.asarray(draws.std(0)) / np.sqrt(4000)).all()
    half = dropout_apply(Net(0.0))(params, INPUTS.astype(jnp.bfloat16), keys=keys[:1], position=POSITION)
    assert half.dtype == jnp.float32


@pytest.mark.slow
def test_an_ensemble_is_averaged_only_with_one_key_per_member():
    net, x = nn.Dense(3), jnp.ones((2, 4))
    params = jax.vmap(net.init, (0, None))(jax.random.split(jax.random.key(0), 5), x)["params"]
    forward = ensemble_apply(net)
    log_probs = predictive(forward, params, x, key=jax.random.key(1), samples=5, chunk=5)
    members = jax.nn.softmax(forward(params, x, keys=jnp.zeros(1), position=jnp.arange(2)))
    np.testing.assert_allclose(jnp.exp(log_probs), members.mean(axis=0), rtol=1e-5)
    with pytest.raises(ValueError, match="got 5 for 1 keys; of an ensemble"):
        predictive(forward, params, x, key=jax.random.key(1), samples=1)
