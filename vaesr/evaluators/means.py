"""Means over images, with what another set of images would have moved them by."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vaesr.reports import error_name


def means_with_errors(values: Mapping[str, Any]) -> dict[str, float]:
    """Means of `[N]` values of N images, by the names of metrics, and after each its standard error.

    That is the sample's standard deviation over the root of N, named as `reports.error_name` says; it is left
    out where there is but one image, or values that are not finite.
    """
    found: dict[str, float] = {}
    for name, each in values.items():
        numbers = np.asarray(each, np.float64)
        with np.errstate(all="ignore"):  # of a training that has gone wrong
            found[name] = float(numbers.mean())
            error = float(numbers.std(ddof=1) / math.sqrt(len(numbers))) if len(numbers) > 1 else math.nan
        if math.isfinite(error):
            found[error_name(name)] = error
    return found


def function_of_mean(
    means: Mapping[str, float],
    source: str,
    name: str,
    function: Callable[[float], float],
    slope: Callable[[float], float],
) -> dict[str, float]:
    """A function of a mean that `means_with_errors` found, such as a root, and after it its standard error.

    `source` is the mean's name, `name` the result's; the error is that of the mean times the function's
    `slope` there, which is right to first order.
    """
    found = {name: function(means[source])}
    if error_name(source) in means:
        found[error_name(name)] = abs(slope(means[source])) * means[error_name(source)]
    return found
