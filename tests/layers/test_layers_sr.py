"""Layers of the super-resolution networks: initialisation, mean shift, trunk and upsampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.layers import (
    Conv,
    Trunk,
    Upsampler,
    add_mean,
    stack_blocks,
    subtract_mean,
    torch_uniform,
    unstack_blocks,
    upsampler_factors,
)


def test_torch_uniform_fills_its_interval(key):
    values = torch_uniform(27)(key, (20000,))
    bound = 27**-0.5
    assert float(jnp.abs(values).max()) <= bound
    np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.02)


def test_conv_initialises_kernel_and_bias_with_the_fan_in(key):
    params = Conv(512).init(key, jnp.zeros((1, 4, 4, 8)))["params"]
    bound = (9 * 8) ** -0.5
    for leaf in jax.tree.leaves(params):
        assert leaf.dtype == jnp.float32
        assert 0.97 * bound < float(jnp.abs(leaf).max()) <= bound


def test_mean_shift_has_the_papers_constants_and_inverts():
    mean = jnp.asarray([0.4488, 0.4371, 0.4040]).reshape(1, 1, 3)
    np.testing.assert_allclose(subtract_mean(mean), np.zeros((1, 1, 3)), atol=1e-5)
    white = subtract_mean(jnp.ones((1, 1, 3)))
    np.testing.assert_allclose(white[0, 0], 255 - 255 * np.array([0.4488, 0.4371, 0.4040]), rtol=1e-6)
    image = jnp.linspace(0, 1, 12).reshape(2, 2, 3)
    np.testing.assert_allclose(add_mean(subtract_mean(image)), image, atol=1e-6)


@pytest.mark.parametrize("shift", [subtract_mean, add_mean])
def test_mean_shift_refuses_grey(shift):
    with pytest.raises(ValueError, match="3 channels"):
        shift(jnp.zeros((1, 4, 4, 1)))


@pytest.mark.parametrize(("scale", "factors"), [(2, (2,)), (3, (3,)), (4, (2, 2)), (8, (2, 2, 2))])
def test_upsampler_factors(scale, factors):
    assert upsampler_factors(scale) == factors


@pytest.mark.parametrize("scale", [0, 1, 5, 6])
def test_upsampler_refuses_other_scales(scale):
    with pytest.raises(ValueError, match=f"scale is {scale}"):
        upsampler_factors(scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_upsampler_shape(key, scale):
    out = jax.eval_shape(lambda x: Upsampler(scale, 4).init_with_output(key, x)[0], jnp.zeros((2, 3, 5, 4)))
    assert out.shape == (2, 3 * scale, 5 * scale, 4)


def test_stack_and_unstack_are_inverse(key):
    params = Trunk(4, 11).init(key, jnp.zeros((1, 3, 3, 4)))["params"]
    stacked = stack_blocks({"trunk": params, "head": {"bias": jnp.zeros(3)}})
    assert stacked["trunk"]["body"]["conv_0"]["kernel"].shape == (11, 3, 3, 4, 4)
    np.testing.assert_array_equal(
        stacked["trunk"]["body"]["conv_1"]["bias"][10], params["body_10"]["conv_1"]["bias"]
    )
    again = unstack_blocks(stacked)["trunk"]
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.slow
def test_scanned_initialisation_draws_different_blocks(key):
    params = Trunk(4, 3, scan=True).init(key, jnp.zeros((1, 3, 3, 4)))["params"]["body"]
    kernel = params["conv_0"]["kernel"]
    assert kernel.shape == (3, 3, 3, 4, 4)
    assert float(jnp.abs(kernel[0] - kernel[1]).max()) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("scan", [False, True])
def test_remat_and_scan_change_neither_value_nor_gradient(key, remat, scan):
    x = jax.random.normal(key, (1, 5, 6, 4))
    params = Trunk(4, 3, 0.5).init(key, x)["params"]

    def loss(tree, scan, remat):
        return jnp.sum(jnp.sin(Trunk(4, 3, 0.5, scan=scan, remat=remat).apply({"params": tree}, x)))

    plain = jax.value_and_grad(loss)(params, False, False)
    value, grads = jax.value_and_grad(loss)(stack_blocks(params) if scan else params, scan, remat)
    np.testing.assert_allclose(value, plain[0], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        unstack_blocks(grads) if scan else grads,
        plain[1],
    )
