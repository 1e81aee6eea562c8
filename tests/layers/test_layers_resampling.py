"""Transposed convolutions: all forms equal, gradients too, and equal to PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.layers.resampling import FORMS, ConvTranspose, DownConv, conv_transpose2d


def inputs(batch=2, height=5, width=6, channels=3, features=7):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(batch, height, width, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(4, 4, channels, features)), jnp.float32)
    return x, kernel


def slow(x, kernel):
    """By the definition: input (i, j) adds kernel element (a, b) to output (2i + a - 1, 2j + b - 1)."""
    batch, height, width, _ = x.shape
    out = np.zeros((batch, 2 * height + 2, 2 * width + 2, kernel.shape[3]))
    for i in range(height):
        for j in range(width):
            out[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum("bc,uvcf->buvf", x[:, i, j], kernel)
    return out[:, 1:-1, 1:-1]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_definition_and_its_gradients_the_same(form):
    x, kernel = inputs()
    expected = slow(np.asarray(x, np.float64), np.asarray(kernel, np.float64))
    weights = jnp.asarray(np.random.default_rng(1).normal(size=expected.shape), jnp.float32)
    y, pull = jax.vjp(lambda x, k: conv_transpose2d(x, k, form=form), x, kernel)
    np.testing.assert_allclose(y, expected, atol=1e-5 * np.abs(expected).max())
    own = pull(weights)
    _, pull = jax.vjp(lambda x, k: conv_transpose2d(x, k, form="direct"), x, kernel)
    for found, wanted in zip(own, pull(weights), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    np.testing.assert_allclose(jax.jit(lambda x: conv_transpose2d(x, kernel, form=form))(x), y, atol=1e-5)


def test_equal_to_pytorch():
    torch = pytest.importorskip("torch")
    x, kernel = inputs()
    theirs = torch.nn.functional.conv_transpose2d(
        torch.tensor(np.asarray(x)).permute(0, 3, 1, 2), torch.tensor(np.asarray(kernel)).permute(2, 3, 0, 1),
        stride=2, padding=1,
    )  # fmt: skip
    np.testing.assert_allclose(conv_transpose2d(x, kernel), theirs.permute(0, 2, 3, 1), atol=1e-5)
    down = DownConv(5)
    variables = down.init(jax.random.key(0), x[:, :4])
    weight = torch.tensor(np.asarray(variables["params"]["kernel"])).permute(3, 2, 0, 1)
    theirs = torch.nn.functional.conv2d(
        torch.tensor(np.asarray(x[:, :4])).permute(0, 3, 1, 2), weight,
        torch.tensor(np.asarray(variables["params"]["bias"])), stride=2, padding=1,
    )  # fmt: skip
    np.testing.assert_allclose(down.apply(variables, x[:, :4]), theirs.permute(0, 2, 3, 1), atol=1e-5)


def test_layers_halve_and_double():
    x = jnp.ones((1, 4, 6, 3), jnp.bfloat16)
    for layer, shape in ((ConvTranspose(5), (1, 8, 12, 5)), (DownConv(5), (1, 2, 3, 5))):
        layer = layer.clone(dtype=jnp.bfloat16)
        variables = layer.init(jax.random.key(0), x)
        y = layer.apply(variables, x)
        assert y.shape == shape and y.dtype == jnp.bfloat16
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
        bound = 1 / np.sqrt(16 * (5 if isinstance(layer, ConvTranspose) else 3))
        assert 0.9 * bound < np.abs(variables["params"]["kernel"]).max() <= bound


def test_wrong_arguments_are_sentences():
    x, kernel = inputs()
    with pytest.raises(ValueError, match=r"expected \[B, H, W, C\] and \[4, 4, C, F\]"):
        conv_transpose2d(x, kernel[:3])
    with pytest.raises(ValueError, match="expected one floating-point type"):
        conv_transpose2d(x, kernel.astype(jnp.bfloat16))
    for knobs in ({"form": "fast"}, {"precision": "double"}):
        with pytest.raises(ValueError, match=r"(form|precision) must be one of"):
            conv_transpose2d(x, kernel, **knobs)
