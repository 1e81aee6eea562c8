"""KernelGAN's regularisation against its formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import losses
from vaesr.losses.kernel_priors import boundary_mask

KERNELS = jnp.asarray(np.random.default_rng(0).random((3, 13, 13), np.float32) - 0.2)


def test_the_boundary_mask_is_the_authors():
    mask = boundary_mask(13)
    assert int((mask > 0).sum()) == 88
    assert abs(mask.max() - 5.755) < 1e-3
    np.testing.assert_array_equal(mask, mask[::-1, ::-1].T)
    np.testing.assert_allclose(
        losses.kernel_boundary_loss(KERNELS), np.abs(KERNELS * mask[None]).mean((1, 2)), rtol=1e-5
    )


def test_values():
    total = np.asarray(KERNELS).sum((1, 2))
    np.testing.assert_allclose(losses.kernel_sum_loss(KERNELS), np.abs(1 - total), rtol=1e-5)
    np.testing.assert_allclose(
        losses.kernel_sparsity_loss(KERNELS), (np.abs(KERNELS) ** 0.2).mean((1, 2)), rtol=1e-5
    )
    places = np.arange(13)
    row = (np.asarray(KERNELS).sum(2) @ places) / total
    column = (np.asarray(KERNELS).sum(1) @ places) / total
    wanted = ((row - 6.5) ** 2 + (column - 6.5) ** 2) / 2
    np.testing.assert_allclose(losses.kernel_centre_loss(KERNELS, scale=2), wanted, rtol=1e-4)
    for impulse, scale in (((6, 6), 1), ((7, 7), 3)):
        kernel = jnp.zeros((1, 13, 13)).at[0, *impulse].set(1.0)
        np.testing.assert_allclose(losses.kernel_centre_loss(kernel, scale=scale), [0.0], atol=1e-9)


NAMES = ["kernel_sum_loss", "kernel_boundary_loss", "kernel_centre_loss", "kernel_sparsity_loss"]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_where_entries_are_zero(name):
    loss = getattr(losses, name)
    kernels = KERNELS.at[:, :4].set(0.0)
    for kernel in (kernels, jnp.zeros_like(kernels)):
        value, gradient = jax.value_and_grad(lambda k: loss(k).sum())(kernel)
        assert np.isfinite(value) and np.isfinite(gradient).all()
    together = loss(kernels)
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda k: loss(k[None])[0]))(kernels), together, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_other_shapes_are_refused(name):
    with pytest.raises(ValueError, match=r"kernel has shape \(13, 12\); expected \[B, K, K\]"):
        getattr(losses, name)(jnp.zeros((13, 12)))
