"""Every form of `conv2d`, and its gradients, against XLA's convolution."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.layers import FORMS, conv2d, winograd


def reference(x, kernel):
    with jax.default_matmul_precision("highest"):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


def value_and_gradients(fn, x, kernel, g):
    y, pull = jax.vjp(fn, x, kernel)
    return y, *pull(g)


SHAPES = [
    (2, 8, 12, 16, 20, 3),
    (1, 7, 5, 20, 3, 3),
    (3, 1, 2, 3, 8, 3),
    (2, 5, 6, 4, 4, 5),
    (1, 3, 3, 4, 2, 1),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forms_equal_xla_with_gradients(key, form, shape):
    b, h, w, c, f, side = shape
    if form == "winograd" and side != 3:
        pytest.skip("winograd is for 3x3")
    keys = jax.random.split(key, 3)
    x = 100 * jax.random.normal(keys[0], (b, h, w, c))
    kernel = jax.random.normal(keys[1], (side, side, c, f)) / (side * c**0.5)
    g = jax.random.normal(keys[2], (b, h, w, f))
    ours = jax.jit(lambda *a: value_and_gradients(lambda x, k: conv2d(x, k, form=form), *a))(x, kernel, g)
    for a, b_ in zip(ours, value_and_gradients(reference, x, kernel, g), strict=True):
        assert a.shape == b_.shape and a.dtype == b_.dtype
        np.testing.assert_allclose(a, b_, atol=1e-5 * float(jnp.abs(b_).max()))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["loop", "patches", "winograd"])
def test_forms_work_in_scan_and_vmap(key, form):
    x = jax.random.normal(key, (2, 6, 5, 16))
    kernels = 0.1 * jax.random.normal(jax.random.key(1), (3, 3, 3, 16, 16))

    def looped(kernels):
        return jax.lax.scan(lambda c, k: (conv2d(c, k, form=form), None), x, kernels)[0].sum()

    def unrolled(kernels):
        y = x
        for kernel in kernels:
            y = reference(y, kernel)
        return y.sum()

    expected = jax.grad(unrolled)(kernels)
    grad = jax.jit(jax.grad(looped))(kernels)
    np.testing.assert_allclose(grad, expected, atol=2e-5 * float(jnp.abs(expected).max()))
    mapped = jax.vmap(lambda k: conv2d(x, k, form=form))(kernels)
    np.testing.assert_allclose(mapped[1], reference(x, kernels[1]), atol=1e-5)


@pytest.mark.parametrize("form", ["auto", "loop", "direct", "patches"])
def test_bfloat16_stays_bfloat16(key, form):
    x = jax.random.normal(key, (1, 8, 8, 16), jnp.bfloat16)
    kernel = (0.1 * jax.random.normal(key, (3, 3, 16, 16))).astype(jnp.bfloat16)
    ours = value_and_gradients(lambda a, k: conv2d(a, k, form=form), x, kernel, jnp.ones_like(x))
    assert {a.dtype for a in ours} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(
        ours[0].astype(jnp.float32),
        reference(x.astype(jnp.float32), kernel.astype(jnp.float32)),
        atol=0.05,
    )


@pytest.mark.parametrize("size", [(1, 37, 21), (2, 16, 8), (1, 3, 50), (3, 64, 5), (1, 1, 1)])
@pytest.mark.parametrize("room", [1, 20_000, 10**9])
def test_winograd_in_strips_is_winograd(key, monkeypatch, size, room):
    """Strips of a row of tiles, of some, and one of all."""
    monkeypatch.setattr(winograd, "_STRIP_BYTES", room)
    x = jax.random.normal(key, (*size, 16)) + 3  # a border that isn't zero would be seen
    kernel = 0.1 * jax.random.normal(jax.random.key(1), (3, 3, 16, 20))
    strips = jax.jit(winograd._strips.__wrapped__)
    np.testing.assert_allclose(strips(x, kernel), reference(x, kernel), atol=2e-5)
    np.testing.assert_allclose(
        jax.vmap(strips, (0, None))(x[:, None], kernel)[:, 0], reference(x, kernel), atol=2e-5
    )


@pytest.mark.slow
def test_strips_need_less_memory(key):
    """Of a chain of layers only two images and a strip are held, not every layer's, and never 2.25 of one."""
    x = jax.random.normal(key, (1, 256, 256, 32))
    kernels = [0.1 * jax.random.normal(jax.random.key(i), (3, 3, 32, 32)) for i in range(6)]

    def memory(convolve):
        def chain(x, kernels):
            for kernel in kernels:
                x = jax.nn.relu(convolve(x, kernel))
            return x

        return jax.jit(chain).lower(x, kernels).compile().memory_analysis().temp_size_in_bytes / x.nbytes

    assert memory(winograd._strips) < 3.6 < 4 < memory(lambda x, k: winograd._jit_forward(x, k)[0])


def test_one_device_takes_strips_unless_a_gradient_is_wanted(key, monkeypatch):
    monkeypatch.setattr(winograd, "_STRIP_BYTES", 1)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    x, kernel = jax.random.normal(key, (1, 12, 8, 16)), jnp.ones((3, 3, 16, 16))
    form = str(jax.make_jaxpr(lambda x: conv2d(x, kernel, form="winograd"))(x))
    gradient = str(jax.make_jaxpr(jax.grad(lambda x: conv2d(x, kernel, form="winograd").sum()))(x))
    assert ("while" in form or "scan" in form) and "while" not in gradient and "scan" not in gradient


def test_winograd_error_is_that_of_float32(key):
    x = jax.random.normal(key, (1, 16, 16, 64))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 64, 16)) / 24
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    exact = sum(
        padded[:, i : i + 16, j : j + 16] @ np.asarray(kernel, np.float64)[i, j]
        for i in range(3)
        for j in range(3)
    )
    error = np.abs(np.asarray(conv2d(x, kernel, form="winograd")) - exact).max()
    assert error < 3e-6 * np.abs(exact).max()


@pytest.mark.parametrize("form", ["direct", "patches"])
@pytest.mark.parametrize(
    ("precision", "written"),
    # "None", not "DEFAULT": then jax_default_matmul_precision still holds.
    [("default", "None"), ("high", "Precision.HIGH,"), ("highest", "Precision.HIGHEST,")],
)
def test_precision_reaches_every_multiplication(form, precision, written):
    x, kernel, g = jnp.zeros((1, 4, 4, 8)), jnp.zeros((3, 3, 8, 2)), jnp.zeros((1, 4, 4, 2))

    def convolve(x, kernel):
        return conv2d(x, kernel, form=form, precision=precision)

    text = str(jax.make_jaxpr(lambda *arrays: value_and_gradients(convolve, *arrays))(x, kernel, g))
    found = re.findall(r" precision=\(?(.*)", text)
    unwritten = form == "patches" and precision == "default"  # dot_general leaves None out
    assert len(found) == 3 - unwritten and all(words.startswith(written) for words in found)


@pytest.mark.slow
def test_checks():
    x, kernel = jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 3, 2))
    with pytest.raises(ValueError, match=r"form must be one of .*'fft'"):
        conv2d(x, kernel, form="fft")
    with pytest.raises(ValueError, match=r"precision must be one of .*'tf32'"):
        conv2d(x, kernel, precision="tf32")
    with pytest.raises(ValueError, match=r"\(1, 4, 4, 3\) and kernel \(3, 3, 4, 2\)"):
        conv2d(x, jnp.zeros((3, 3, 4, 2)))
    with pytest.raises(ValueError, match="odd side"):
        conv2d(x, jnp.zeros((2, 2, 3, 2)))
    with pytest.raises(ValueError, match="one floating-point type"):
        conv2d(x.astype(jnp.bfloat16), kernel)
    with pytest.raises(ValueError, match="needs 3x3"):
        conv2d(x, jnp.zeros((5, 5, 3, 2)), form="winograd")
    with pytest.raises(ValueError, match="needs float32"):
        conv2d(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), form="winograd")
