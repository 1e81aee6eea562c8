"""Maximum likelihood of point-estimate networks: the sum over members, and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import objectives


def forward(params, inputs, *, keys, position):
    """Linear classifiers `[M, D, K]`; the noise shows which keys and positions arrive."""
    del keys, position
    return jnp.einsum("mdk,bd->mbk", params, inputs)


RNG = np.random.default_rng(0)
PARAMS = jnp.asarray(RNG.normal(size=(3, 4, 5)), jnp.float32)
BATCH = {
    "image": jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32),
    "label": jnp.asarray(RNG.integers(0, 5, 6), jnp.int32),
    "position": jnp.arange(6),
}
ARGUMENTS = {"key": jax.random.key(0), "step": jnp.int32(0)}


def test_every_member_has_the_loss_and_gradient_it_would_have_alone():
    objective = objectives.supervised(forward, objectives.classification_nll, player="net")
    loss_of = lambda p: objective({"net": p}, {}, BATCH, **ARGUMENTS)[0]
    loss, aux = objective({"net": PARAMS}, {}, BATCH, **ARGUMENTS)
    log_probs = jax.nn.log_softmax(forward(PARAMS, BATCH["image"], keys=None, position=None))
    expected = -log_probs[:, jnp.arange(6), BATCH["label"]].mean(axis=1)
    np.testing.assert_allclose(loss, expected.sum(), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["nll_nats"], expected.mean(), rtol=1e-5)
    alone = [jax.grad(loss_of)(PARAMS[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(jax.jit(jax.grad(loss_of))(PARAMS), alone, rtol=1e-4, atol=1e-6)


def test_keys_and_positions_reach_the_network():
    seen = {}

    def spy(params, inputs, *, keys, position):
        seen.update(keys=keys, position=position)
        return forward(params, inputs, keys=keys, position=position)

    objective = objectives.supervised(spy, objectives.classification_nll, player="net")
    objective({"net": PARAMS}, {}, BATCH | {"position": jnp.arange(6) + 10}, **ARGUMENTS)
    assert seen["keys"].shape == (1,) and seen["keys"][0] == ARGUMENTS["key"]
    np.testing.assert_array_equal(seen["position"], np.arange(6) + 10)
    objective({"net": PARAMS}, {}, {k: v for k, v in BATCH.items() if k != "position"}, **ARGUMENTS)
    np.testing.assert_array_equal(seen["position"], np.arange(6))


def test_wrong_batches_are_sentences():
    objective = objectives.supervised(forward, objectives.classification_nll, player="net", inputs="x")
    with pytest.raises(
        ValueError, match=r"the batch must hold 'x', got the names \['image', 'label', 'position'\]"
    ):
        objective({"net": PARAMS}, {}, BATCH, **ARGUMENTS)
    scalar = objectives.supervised(forward, lambda outputs, batch: outputs.mean(), player="net")
    with pytest.raises(ValueError, match=r"nll must give one value per example \(6,\), got \(\) per member"):
        scalar({"net": PARAMS}, {}, BATCH, **ARGUMENTS)
