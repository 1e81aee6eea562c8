"""The study of the estimators gives what is known; bad settings are refused."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import estimators
from vaesr import distributions, evaluators
from vaesr.evaluators import estimators as estimator_study


@pytest.mark.slow
def test_the_study_finds_the_known_means_and_variances():
    key = jax.random.key(0)
    mean, variance = estimator_study.gradient_moments(
        distributions.score_function, estimator_study.square, key, dimension=4, samples=2, repeats=50_000
    )
    np.testing.assert_allclose(mean, 2.0, rtol=0.02)
    np.testing.assert_allclose(variance, estimator_study.score_variance(np.array(4)) / 2, rtol=0.05)
    # A baseline that holds the own sample shrinks the gradient by 1 - 1/S.
    mean, _ = estimator_study.gradient_moments(
        estimator_study.own_mean, estimator_study.square, key, dimension=4, samples=4, repeats=50_000
    )
    np.testing.assert_allclose(mean, 2.0 * 3 / 4, rtol=0.02)
    mean, _ = estimator_study.gradient_moments(
        distributions.pathwise, estimator_study.step, key, dimension=4, samples=4, repeats=100
    )
    assert mean == 0.0


def test_the_test_split_is_drawn_eight_times_for_every_estimator(monkeypatch):
    used = []

    def measured(bank, measure, params, split, **how):
        used.append((split, how.get("drawings", 1)))
        return {"elbo_nats": -100.0 + 5 * params, "kl_nats": 9.0, "elbo_se_nats": 1.0 + params}

    monkeypatch.setattr(evaluators, "mean_bounds", measured)
    smoke = estimators.PRESETS["smoke"]
    system = estimators.build(dataclasses.replace(smoke, data="random:99x8x8x1"))
    system.evaluate({"pathwise": 0, "leave_one_out": 1}, {})
    found = system.evaluate_test({"pathwise": 0, "leave_one_out": 1, "optimal": -1}, {})
    assert used == [("validation", 1)] * 2 + [("test", 8)] * 3
    # The best one's, with its own error.
    assert (found["elbo_nats"], found["elbo_se_nats"], found["optimal/elbo_se_nats"]) == (-95.0, 2.0, 0.0)
    assert not any("kl" in name for name in found)


def test_bad_settings_are_refused_with_a_sentence():
    smoke = estimators.PRESETS["smoke"]
    with pytest.raises(ValueError, match=r"--estimators must be different .* got reinforce"):
        dataclasses.replace(smoke, estimators=("reinforce",))
    with pytest.raises(ValueError, match="--samples must be at least 2"):
        dataclasses.replace(smoke, samples=1)
    with pytest.raises(ValueError, match=r"--study.samples must be at least 2"):
        estimators.StudyConfig(samples=(1, 2))
