"""Active units: the variance over the data of what the posterior says on average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.metrics import active_units


def test_latents_whose_mean_moves_are_counted():
    scales = np.array([0.0, 0.05, 0.2, 1.0, 3.0])  # variances 0, 0.0025, 0.04, 1, 9
    mean_q = 5.0 + scales * np.random.default_rng(0).normal(size=(5000, 5))
    assert active_units(mean_q) == 3
    assert active_units(mean_q, threshold=0.5) == 2
    assert active_units(mean_q, threshold=0.001) == 4
    assert jax.jit(active_units)(mean_q.reshape(5000, 5, 1)) == 3
    assert active_units(jnp.asarray(mean_q, jnp.bfloat16)).dtype == jnp.int32


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"at least two examples, got shape \(1, 3\)"):
        active_units(jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        active_units(jnp.zeros(3))
    with pytest.raises(ValueError, match="threshold must be at least 0, got -1"):
        active_units(jnp.zeros((2, 3)), threshold=-1)
