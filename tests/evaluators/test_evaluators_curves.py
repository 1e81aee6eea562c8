"""Scores on the curve, of predictions that are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import data, evaluators


def test_scores_of_a_known_prediction_have_their_errors():
    """One network that is always 0.1 too high, with a fixed scale."""

    def forward(params, x, *, keys, position):
        curve = x[:, 0] + 0.3 * (jnp.sin(2 * jnp.pi * x[:, 0]) + jnp.sin(4 * jnp.pi * x[:, 0]))
        means = jnp.broadcast_to(curve + 0.1, (len(keys), len(x)))
        return means, jnp.full(means.shape, jnp.log(0.2))

    evaluator = evaluators.CurveEvaluator(data.blundell_curve(10, seed=0), {"bnn": (forward, 2)}, seed=0)
    found = evaluator.evaluate_test({"bnn": {}}, {})
    points = evaluator.held_out["test"]
    squares = np.square(forward(None, points["x"], keys=[0], position=None)[0][0] - points["target"])
    mse, error = squares.mean(), squares.std(ddof=1) / np.sqrt(len(squares))
    assert found["bnn_rmse"] == pytest.approx(np.sqrt(mse), rel=1e-4)
    assert found["bnn_rmse_se"] == pytest.approx(error / np.sqrt(mse) / 2, rel=1e-4)
    assert found["bnn_nll_se_nats"] == pytest.approx(error / 2 / 0.2**2, rel=1e-3)
    assert found["bnn_epistemic_inside"] == found["bnn_epistemic_inside_se"] == 0
    assert found["bnn_epistemic_away"] == 0 and "bnn_epistemic_away_se" not in found  # of two points
