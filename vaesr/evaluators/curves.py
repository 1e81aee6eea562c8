"""Methods of predictive uncertainty side by side on one curve: scores, and error bars to look at."""

import functools
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaesr import data, objectives, reports
from vaesr.evaluators.classification import METHOD_TITLES
from vaesr.evaluators.means import function_of_mean, means_with_errors

# Every evaluation draws the same weights, so that the numbers of two checkpoints compare.
_SEED = 1
# Points on either side of the training data, which lie in [0, 0.5].
_AWAY = np.array([[-0.3], [0.8]], np.float32)
_HELD_OUT = 1000


class CurveEvaluator:
    """Measures several methods on Blundell's curve; the training points lie in [0, 0.5].

    Those are `{"x": [N, 1], "target": [N]}`. `forwards` are `{name: (forward, draws)}`, the names among those
    of `METHOD_TITLES`; `forward(params, x, keys=[S], position=[B])` gives means and log-scales `[S, B]`,
    averaged over `draws` of them. The seed is of the points held out. `params` are `{name: parameters}`, and
    variables are not used.
    """

    def __init__(
        self,
        points: Mapping[str, np.ndarray],
        forwards: Mapping[str, tuple[objectives.Forward, int]],
        *,
        seed: int,
    ) -> None:
        self.points, self.forwards = points, dict(forwards)
        self.held_out = {
            "validation": data.blundell_curve(_HELD_OUT, seed=seed + 10_000),
            "test": data.blundell_curve(_HELD_OUT, seed=seed + 20_000),
        }

    def evaluate(self, params: dict[str, Any], variables: Any) -> dict[str, float]:
        """Score every method on validation points: `{"NAME_METRIC": value}`.

        `nll_nats`, `rmse`, and the mean width of the epistemic error bars where the data lie
        (`epistemic_inside`), with their standard errors over points, and on either side of the data
        (`epistemic_away`).
        """
        return self._measure(params, "validation")

    def evaluate_test(self, params: dict[str, Any], variables: Any) -> dict[str, float]:
        """Score every method on test points, as `evaluate`."""
        return self._measure(params, "test")

    def figures(
        self, params: dict[str, Any], variables: Any, directory: str | os.PathLike[str], step: int
    ) -> None:
        """Draw each method's curve with its error bars."""
        line = data.blundell_curve(400, seed=0, low=-0.4, high=1.0, noise=0.0)
        for number, (name, (forward, draws)) in enumerate(self.forwards.items(), 1):
            moments = _moments(forward, draws, params[name], line["x"])
            picture = reports.regression_bands(
                line["x"][:, 0], moments.mean, np.sqrt(moments.aleatoric), np.sqrt(moments.epistemic),
                data=(self.points["x"][:, 0], self.points["target"]), truth=line["target"],
                title=METHOD_TITLES[name],
            )  # fmt: skip
            caption = "The mean of the prediction and its error bars; training points lie in [0, 0.5]."
            reports.save_image(pathlib.Path(directory) / f"{number}_{name}.png", picture, caption=caption)

    def _measure(self, params: dict[str, Any], split: str) -> dict[str, float]:
        return {
            f"{name}_{metric}": value
            for name, (forward, draws) in self.forwards.items()
            for metric, value in _score(forward, draws, params[name], self.held_out[split]).items()
        }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _moments(
    forward: objectives.Forward, draws: int, params: Any, x: jax.Array
) -> objectives.PredictiveMoments:
    key = jax.random.key(_SEED)
    return objectives.predictive_moments(forward, params, x, key=key, samples=draws, chunk=draws)


def _score(forward: objectives.Forward, draws: int, params: Any, points: dict[str, Any]) -> dict[str, float]:
    """Error and likelihood where the data lie, and how much wider the epistemic bars are away from them."""
    log_prob = objectives.predictive_log_prob(
        forward, objectives.regression_nll, params, points,
        key=jax.random.key(_SEED), samples=draws, chunk=draws, inputs="x",
    )  # fmt: skip
    moments = _moments(forward, draws, params, points["x"])
    away = _moments(forward, draws, params, _AWAY)
    mse = means_with_errors({"mse": jnp.square(moments.mean - points["target"])})
    return {
        **means_with_errors({"nll_nats": -log_prob, "epistemic_inside": jnp.sqrt(moments.epistemic)}),
        **function_of_mean(mse, "mse", "rmse", math.sqrt, lambda mse: 0.5 / math.sqrt(max(mse, 1e-12))),
        "epistemic_away": float(jnp.sqrt(away.epistemic).mean()),
    }
