"""Means over images, with what another set of images would have moved them by."""

import math
from collections.abc import Mapping
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
