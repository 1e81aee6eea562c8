"""Maximum likelihood of codes: the loss is the cross-entropy, and a prior learns what can be learned."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaesr import objectives, training
from vaesr.models.pixelcnn import PixelCNN


def test_the_loss_is_the_mean_cross_entropy():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2, 5)), jnp.float32)
    codes = jnp.asarray(np.random.default_rng(1).integers(0, 5, (3, 2, 2)), jnp.uint8)
    seen = {}

    def apply(params, codes, *, keys, label, condition):
        seen.update(keys=keys, label=label, condition=condition)
        return logits + params

    batch = {"codes": codes, "condition_1": codes, "condition_0": codes[:, :1], "label": jnp.arange(3)}
    loss, aux = objectives.autoregressive(apply)(
        {"prior": 0.0}, {}, batch, key=jax.random.key(0), step=jnp.int32(0)
    )
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    expected = -np.take_along_axis(log_probs, np.asarray(codes, int)[..., None], -1).mean()
    assert loss == pytest.approx(expected, rel=1e-6)
    assert aux.metrics["bits_per_code"] == pytest.approx(expected / math.log(2), rel=1e-6)
    assert aux.metrics["accuracy_percent"] == pytest.approx(100 * (log_probs.argmax(-1) == codes).mean())
    assert [c.shape for c in seen["condition"]] == [(3, 1, 2), (3, 2, 2)] and seen["keys"].shape == (3,)
    np.testing.assert_array_equal(seen["label"], [0, 1, 2])


@pytest.mark.slow
def test_a_prior_learns_the_entropy_of_what_it_sees():
    """Rows of one repeated random code: the first column costs 2 bits, the others nothing."""
    rng = np.random.default_rng(2)
    codes = jnp.asarray(rng.integers(0, 4, (256, 3, 1)).repeat(4, axis=2))
    model = PixelCNN(shape=(3, 4), codes=4, channels=16, layers=3, kernel=3, head=16)
    apply = lambda params, codes, **given: model.apply({"params": params}, codes, **given)
    players = {"prior": training.Player(objectives.autoregressive(apply), optax.adam(1e-2))}
    state = training.create_state(
        lambda key: ({"prior": model.init(key, codes[:1])["params"]}, {}), players, key=jax.random.key(0)
    )
    step = jax.jit(training.make_train_step(players), donate_argnums=0)
    for _ in range(120):
        state, metrics = step(state, {"codes": codes})
    assert 0.4 < float(metrics["bits_per_code"]) < 0.56  # 2 / 4
