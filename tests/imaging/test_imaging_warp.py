"""Affine warps: exact where they are turns, Keys' polynomials elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.imaging import warp_affine

RNG = np.random.default_rng(0)
IMAGE = RNG.random((40, 50, 3), np.float32)


@pytest.mark.parametrize("quarter", range(4))
def test_quarter_turns_are_exact(quarter):
    angle, middle = quarter * np.pi / 2, (20 - 1) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    start = np.array([25.5, 20.5]) - turn @ [middle, middle]
    out = warp_affine(IMAGE, np.concatenate([turn, start[:, None]], axis=1), (20, 20))
    np.testing.assert_array_equal(out, np.rot90(IMAGE[11:31, 16:36], quarter))


def test_equals_keys_polynomial_slowly():
    matrix = np.array([[0.8, 0.3, 2.2], [-0.25, 0.9, 5.1]])
    out = np.asarray(warp_affine(IMAGE, matrix, (12, 15), sharpness=-0.75))

    def weight(t, a=-0.75):
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    for row in range(12):
        for column in range(15):
            x, y = matrix @ [column, row, 1]
            total = np.zeros(3)
            for i in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
                for j in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
                    if 0 <= i < 40 and 0 <= j < 50:
                        total += weight(y - i) * weight(x - j) * IMAGE[i, j]
            np.testing.assert_allclose(out[row, column], total, atol=2e-4)


def test_outside_is_black_and_batches_are_single_images():
    far = np.array([[[1, 0, 1e6], [0, 1, 0]], [[1, 0, 3], [0, 1, -4]]], np.float32)
    out = jax.jit(warp_affine, static_argnums=2)(jnp.stack([IMAGE, IMAGE]), far, (30, 30))
    assert not np.asarray(out[0]).any()
    np.testing.assert_array_equal(out[1, 4:], IMAGE[:26, 3:33])
    np.testing.assert_array_equal(out[1, :4], np.zeros((4, 30, 3)))


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match=r"matrix has shape \(3, 3\); expected \[2, 3\]"):
        warp_affine(IMAGE, np.eye(3), (4, 4))
    with pytest.raises(TypeError, match="floating-point image"):
        warp_affine(np.zeros((4, 4, 3), np.uint8), np.eye(2, 3), (4, 4))
