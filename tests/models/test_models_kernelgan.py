"""KernelGAN's networks: published sizes, and all layers as one kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled_variables import filled

from vaesr.models.kernelgan import KernelDiscriminator, KernelGenerator

X = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_published_sizes():
    key = jax.random.key(0)
    generator = jax.eval_shape(KernelGenerator().init, key, X)
    discriminator = jax.eval_shape(KernelDiscriminator().init, key, X[:, :26, :26])
    assert count(generator["params"]) == 150_656
    assert count(discriminator["params"]) == 30_977
    assert KernelGenerator().side == 13
    scores = jax.eval_shape(KernelDiscriminator().apply, discriminator, X[:, :26, :26])
    assert scores.shape == (2, 20, 20)


@pytest.mark.parametrize("sides", [(7, 5, 3, 1, 1, 1), (5, 3), (3, 1, 5)])
def test_one_kernel_is_all_layers(sides):
    network = KernelGenerator(channels=16, sides=sides)
    variables = filled(network, X)
    whole = network.apply(variables, X)
    layered = network.apply(variables, X, method="layered")
    assert whole.shape == layered.shape
    np.testing.assert_allclose(whole, layered, atol=2e-6 * float(jnp.abs(layered - 0.5).max() + 1))
    # What the layers make of an impulse, less what they make of nothing, is the kernel turned.
    reach, plain = network.side - 1, network.clone(stride=1)
    impulse = jnp.zeros((1, 2 * reach + 1, 2 * reach + 1, 1)).at[0, reach, reach, 0].set(1.0)
    answer, nothing = (plain.apply(variables, x, method="layered") for x in (impulse, 0 * impulse))
    kernel = network.apply(variables, method="kernel")
    np.testing.assert_allclose(
        (answer - nothing)[0, ::-1, ::-1, 0], kernel, atol=3e-6 * float(jnp.abs(kernel).max() + 1)
    )


def test_one_kernel_has_the_layers_gradients():
    network = KernelGenerator(channels=8)
    variables = filled(network, X)

    def loss(variables, method):
        return jnp.sin(3 * network.apply(variables, X, method=method)).sum()

    ours = jax.grad(loss)(variables, "__call__")
    theirs = jax.grad(loss)(variables, "layered")
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4 * float(jnp.abs(b).max()))


def test_the_critic_is_convolutions_with_its_batchs_statistics():
    """Against the same numbers through XLA's convolution, normalised slowly."""
    network = KernelDiscriminator(channels=8, blocks=2)
    x = X[:, :26, :26]
    variables = filled(network, x)
    scores, moved = network.apply(variables, x, True, mutable=["spectral"])
    params, vectors = variables["params"], variables["spectral"]

    def normalised(name):
        matrix, u = (
            np.asarray(params[f"{name}_kernel"], np.float64),
            np.asarray(vectors[f"{name}_spectral"]["u"]),
        )
        v = matrix @ u
        v /= np.linalg.norm(v)
        u = v @ matrix
        u /= np.linalg.norm(u)
        np.testing.assert_allclose(moved["spectral"][f"{name}_spectral"]["u"], u, atol=1e-5)
        return matrix / (v @ matrix @ u), np.asarray(params[f"{name}_bias"], np.float64)

    kernel, bias = normalised("first")
    windows = np.lib.stride_tricks.sliding_window_view(2 * x.astype(np.float64) - 1, (7, 7), axis=(1, 2))
    y = np.einsum("nhwcij,ijcf->nhwf", windows, kernel.reshape(7, 7, 3, 8)) + bias
    for i in range(2):
        kernel, bias = normalised(f"block_{i}")
        y = y @ kernel + bias
        y = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-5)
        y = np.maximum(y * np.asarray(params[f"block_{i}_scale"]) + np.asarray(params[f"block_{i}_shift"]), 0)
    kernel, bias = normalised("last")
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-(y @ kernel + bias)[..., 0])), atol=2e-5)
