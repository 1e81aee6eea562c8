"""How well a metric agrees with people: correlations with subjective scores. On the host, in float64."""

import dataclasses
from typing import Literal

import numpy as np
from jax.typing import ArrayLike

Fit = Literal["none", "logistic4", "logistic5"]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A metric's agreement with subjective scores. PLCC and RMSE mean little without the fit's name.

    Attributes:
        plcc: Pearson's linear correlation of the fitted scores, in [-1, 1].
        srcc: Spearman's rank correlation in [-1, 1].
        krcc: Kendall's rank correlation (tau-b) in [-1, 1].
        rmse: root mean square error of the fitted scores, in the unit of the subjective ones; NaN without a
            fit, where the units differ.
        fit: "none", "logistic4" or "logistic5".
        parameters: of the fit, in the units of both scores.
        number: of images.
    """

    plcc: float
    srcc: float
    krcc: float
    rmse: float
    fit: Fit
    parameters: tuple[float, ...]
    number: int


def agreement(objective: ArrayLike, subjective: ArrayLike, *, fit: Fit = "logistic5") -> Agreement:
    """Compares a metric with subjective scores, after the usual fit for PLCC and RMSE.

    "logistic5" is VQEG's b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5, "logistic4" the older
    (b1 - b2) / (1 + exp(-(x - b3) / |b4|)) + b2. Rank correlations need no fit.

    Args:
        objective: `[N]`, the metric's scores.
        subjective: `[N]`, MOS; give DMOS negated, or the signs of SRCC and KRCC turn.
        fit: "none", "logistic4" or "logistic5".

    Returns:
        The figures.

    Raises:
        ValueError: if the shapes don't fit, there are fewer images than the fit has parameters (or than 2), a
            value is not finite, all are equal, or the fit's name is unknown.

    Source: VQEG, "Final Report from the Video Quality Experts Group on the Validation of Objective Models of
      Video Quality Assessment", 2000; Sheikh, Sabir and Bovik, "A Statistical Evaluation of Recent Full
      Reference Image Quality Assessment Algorithms", 2006, equations 9 and 10.
    """
    from scipy import stats

    x, y = (np.asarray(i, np.float64) for i in (objective, subjective))
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"agreement: both must be [N], got {x.shape} and {y.shape}.")
    if fit not in _PARAMETERS:
        raise ValueError(f'agreement: fit must be "none", "logistic4" or "logistic5", got {fit!r}.')
    if len(x) < max(2, _PARAMETERS[fit]):
        raise ValueError(
            f"agreement: {len(x)} images are too few for a fit of {_PARAMETERS[fit]} parameters."
        )
    for name, values in (("objective", x), ("subjective", y)):
        if not np.isfinite(values).all():
            raise ValueError(
                f"agreement: {name} holds {np.sum(~np.isfinite(values))} values that are not finite."
            )
        if np.ptp(values) == 0:
            raise ValueError(f"agreement: all {len(values)} values of {name} are {values[0]:g}.")
    fitted, parameters = (x, ()) if fit == "none" else _fit_logistic(x, y, fit)
    # A fit that found nothing is a constant.
    linear = float(np.corrcoef(fitted, y)[0, 1]) if np.ptp(fitted) > 0 else 0.0
    return Agreement(
        plcc=linear,
        srcc=float(stats.spearmanr(x, y).statistic),
        krcc=float(stats.kendalltau(x, y).statistic),
        rmse=float("nan") if fit == "none" else float(np.sqrt(np.square(fitted - y).mean())),
        fit=fit,
        parameters=parameters,
        number=len(x),
    )


_PARAMETERS = {"none": 2, "logistic4": 4, "logistic5": 5}


def _fit_logistic(x: np.ndarray, y: np.ndarray, fit: Fit) -> tuple[np.ndarray, tuple[float, ...]]:
    """The best of several starts, fitted in standard units so that no scale is a hard one."""
    from scipy.optimize import least_squares
    from scipy.special import expit

    centre, spread, mean, deviation = x.mean(), x.std(), y.mean(), y.std()
    u, v = (x - centre) / spread, (y - mean) / deviation
    sign = 1.0 if np.corrcoef(u, v)[0, 1] >= 0 else -1.0

    def curve(b: np.ndarray) -> np.ndarray:
        if fit == "logistic5":
            return b[0] * (expit(b[1] * (u - b[2])) - 0.5) + b[3] * u + b[4]
        return (b[0] - b[1]) * expit((u - b[2]) / max(abs(b[3]), 1e-9)) + b[1]

    low, high = v.min(), v.max()
    starts: list[list[float]] = []
    for steepness in (0.5, 1.0, 4.0):
        for place in (0.0, float(np.quantile(u, 0.25)), float(np.quantile(u, 0.75))):
            if fit == "logistic5":
                starts.append([(high - low) * sign, steepness, place, 0.0, 0.0])
            else:
                ends = (high, low) if sign > 0 else (low, high)
                starts.append([*ends, place, 1 / steepness])
    found = [least_squares(lambda b: curve(b) - v, start, method="lm", max_nfev=2000) for start in starts]
    best = min(found, key=lambda result: result.cost).x
    fitted = mean + deviation * curve(best)
    # From standard units into the scores' own.
    if fit == "logistic5":
        slope = deviation * best[3] / spread
        own = [deviation * best[0], best[1] / spread, centre + spread * best[2], slope]
        own.append(mean + deviation * best[4] - slope * centre)
    else:
        own = [*(mean + deviation * best[:2]), centre + spread * best[2], spread * abs(best[3])]
    return fitted, tuple(float(b) for b in own)
