"""Networks between two: the ends bit for bit, the middle linear, what does not fit refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.inference import interpolate
from vaesr.layers import Conv


def two(seed=0):
    rng = np.random.default_rng(seed)

    def tree():
        kernel = rng.standard_normal((3, 3, 2, 4)).astype(np.float32)
        return {"a": {"kernel": kernel}, "b": rng.random(3).astype(np.float32)}

    return tree(), tree()


def test_the_ends_are_the_networks_bit_for_bit():
    first, second = two()
    first["b"][0], second["b"][1] = np.inf, np.nan
    jax.tree.map(np.testing.assert_array_equal, interpolate(first, second, 0), first)
    jax.tree.map(np.testing.assert_array_equal, interpolate(first, second, 1), second)


@pytest.mark.slow
def test_one_layer_is_linear_in_between(key):
    layer, x = Conv(4), jax.random.normal(key, (1, 6, 6, 2))
    a, b = (layer.init(jax.random.key(i), x) for i in (1, 2))
    for alpha in (0.25, 0.5, 0.8):
        mixed = layer.apply(interpolate(a, b, alpha), x)
        expected = (1 - alpha) * layer.apply(a, x) + alpha * layer.apply(b, x)
        np.testing.assert_allclose(mixed, expected, atol=1e-5)


def test_what_does_not_fit_is_refused():
    first, second = two()
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\], got 1.5"):
        interpolate(first, second, 1.5)
    with pytest.raises(ValueError, match="different parameters"):
        interpolate(first, {"a": second["a"]}, 0.5)
    with pytest.raises(ValueError, match=r"\['b'\] has shape \(3,\) in one network and \(4,\)"):
        interpolate(first, {**second, "b": jnp.zeros(4)}, 0.5)
