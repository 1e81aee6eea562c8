"""Means with their standard errors, and how they are named."""

import numpy as np
import pytest

from vaesr.evaluators import function_of_mean, means_with_errors, name_by_scale
from vaesr.reports import error_name


def test_the_error_is_how_far_means_of_other_images_lie():
    rng = np.random.default_rng(0)
    many = rng.normal(3.0, 2.0, (2000, 50))
    found = means_with_errors({"elbo_nats": many[0]})
    assert set(found) == {"elbo_nats", "elbo_se_nats"} and found["elbo_nats"] == many[0].mean()
    typical = np.mean([means_with_errors({"x": row})["x_se"] for row in many])
    assert typical == pytest.approx(many.mean(axis=1).std(), rel=0.05)


def test_one_image_and_values_that_are_not_finite_have_none():
    assert means_with_errors({"psnr_db": [30.0]}) == {"psnr_db": 30.0}
    assert set(means_with_errors({"psnr_db": [30.0, np.inf], "ssim": [0.5, 0.7]})) == {
        "psnr_db", "ssim", "ssim_se",
    }  # fmt: skip


def test_the_error_of_a_function_of_a_mean_is_how_far_those_of_other_images_lie():
    mse = np.random.default_rng(1).gamma(4.0, 0.01, (2000, 50))
    psnr = lambda mean: -10 * np.log10(mean)
    slope = lambda mean: -10 / np.log(10) / mean
    each = [function_of_mean(means_with_errors({"mse": row}), "mse", "psnr_db", psnr, slope) for row in mse]
    assert each[0]["psnr_db"] == psnr(mse[0].mean())
    spread = np.std([found["psnr_db"] for found in each])
    assert np.mean([found["psnr_se_db"] for found in each]) == pytest.approx(spread, rel=0.05)
    assert function_of_mean({"mse": 0.1}, "mse", "psnr_db", psnr, slope) == {"psnr_db": pytest.approx(10)}


@pytest.mark.parametrize(
    "name, error",
    (
        ("psnr_y_db", "psnr_y_se_db"),
        ("ssim", "ssim_se"),
        ("error_percent", "error_se_percent"),
        ("bits_per_code", "bits_per_code_se"),
        ("a/elbo_nats", "a/elbo_se_nats"),
    ),
)
def test_names(name, error):
    assert error_name(name) == error
    if not name.endswith(("_nats", "_percent")):  # figures of photos have other units
        scaled = name_by_scale({name: 1.0, error: 2.0}, 3)
        assert [error_name(next(iter(scaled)))] == list(scaled)[1:]
