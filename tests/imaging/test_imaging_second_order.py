"""Real-ESRGAN's degradation: canvases against PyTorch at the true sizes, step by step and as a whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.imaging import canvas, jpeg, noise, second_order

RNG = np.random.default_rng(0)


def photo(count=2, height=96, width=80):
    y, x = np.mgrid[:height, :width] / 9
    plane = np.stack([np.sin(x) * np.cos(y), np.sin(x + y), np.cos(2 * x - y)], axis=-1) * 0.35 + 0.5
    return np.clip(plane[None] + RNG.normal(0, 0.03, (count, height, width, 3)), 0, 1).astype(np.float32)


def by_torch(x, size, mode):
    torch = pytest.importorskip("torch")
    planes = torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))[None]
    how = {} if canvas.RESIZE_MODES[mode] == "area" else {"align_corners": False}
    out = torch.nn.functional.interpolate(planes, size=tuple(size), mode=canvas.RESIZE_MODES[mode], **how)
    return out[0].numpy().transpose(1, 2, 0)


def on_canvas(x, shape):
    return np.pad(x, ((0, shape[0] - x.shape[0]), (0, shape[1] - x.shape[1]), (0, 0)), mode="edge")


@pytest.mark.parametrize("mode", range(3))
def test_resizing_is_torchs_whatever_the_size(mode):
    sizes = [((40, 50), (17, 71)), ((33, 20), (33, 20)), ((9, 31), (60, 12)), ((40, 7), (23, 41))]
    images = [RNG.random((*old, 3), np.float32) for old, _ in sizes]
    stacked = np.stack([on_canvas(image, (40, 50)) for image in images])
    old, new = (np.array(column) for column in zip(*sizes, strict=True))
    out = jax.jit(canvas.resize_on_canvas, static_argnums=4)(stacked, old, new, np.full(4, mode), (60, 71))
    for ours, image, (_, size) in zip(np.asarray(out), images, sizes, strict=True):
        theirs = by_torch(image, size, mode)
        np.testing.assert_allclose(ours[: size[0], : size[1]], theirs, atol=2e-5)
        np.testing.assert_allclose(ours, on_canvas(theirs, (60, 71)), atol=2e-5)


def reflected(x, kernel):
    reach = len(kernel) // 2
    wide = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(wide, kernel.shape, axis=(0, 1))
    return np.einsum("hwcij,ij->hwc", windows, kernel)


def test_blur_reflects_at_the_images_own_edge():
    images = [RNG.random((*size, 3), np.float32) for size in ((30, 40), (17, 25), (30, 12))]
    kernels = RNG.random((3, 21, 21), np.float32)
    kernels /= kernels.sum((1, 2), keepdims=True)
    stacked = np.stack([on_canvas(image, (30, 40)) for image in images])
    sizes = np.array([image.shape[:2] for image in images])
    out = np.asarray(canvas.blur_on_canvas(stacked, sizes, kernels))
    for ours, image, kernel in zip(out, images, kernels, strict=True):
        np.testing.assert_allclose(ours, on_canvas(reflected(image, kernel), (30, 40)), atol=1e-5)


def slowly(x, drawn, scale):
    """One example at its true sizes, without canvases; its noise is Gaussian."""

    def resized(x, size, mode):
        return by_torch(x.astype(np.float32), size, mode)

    def compressed(x, quality):
        return np.asarray(jpeg(jnp.clip(jnp.asarray(x, jnp.float32), 0, 1)[None], quality))[0]

    def noisy(x, step, shape):
        normal = np.asarray(jax.random.normal(jax.random.fold_in(step.key, 0), (*shape, 3)))
        normal = normal[: x.shape[0], : x.shape[1]]
        normal = normal[..., :1] if step.grey else normal
        return np.clip(x + float(step.sigma) * normal, 0, 1)

    height, width = x.shape[:2]
    small = height // scale, width // scale
    x = reflected(x, np.asarray(drawn.first.kernel))
    x = resized(
        x, [int(n * float(drawn.first.factor) + 1e-4) for n in (height, width)], int(drawn.first.mode)
    )
    x = compressed(noisy(x, drawn.first, [-(-3 * n // 2) for n in (height, width)]), drawn.first.quality)
    x = reflected(x, np.asarray(drawn.second.kernel))
    x = resized(x, [int(n * float(drawn.second.factor) + 1e-4) for n in small], int(drawn.second.mode))
    x = noisy(x, drawn.second, [-(-3 * n // 2) for n in small])
    if drawn.sinc_first:
        x = reflected(resized(x, small, int(drawn.mode)), np.asarray(drawn.sinc))
        x = compressed(x, drawn.second.quality)
    else:
        x = compressed(x, drawn.second.quality)
        x = reflected(resized(x, small, int(drawn.mode)), np.asarray(drawn.sinc))
    return np.round(np.clip(x, 0, 1) * 255) / 255


@pytest.mark.slow
def test_the_whole_is_the_steps_one_by_one():
    count, scale = 8, 2
    x = photo(count, 160, 128)
    keys = jax.random.split(jax.random.key(5), count)
    how = second_order.SecondOrder()
    quiet = [step._replace(gaussian=1.0, range=(0.5, 1.5)) for step in (how.first, how.second)]
    how = how._replace(first=quiet[0], second=quiet[1]._replace(range=(0.5, 1.2)))
    drawn = second_order.draw_degradations(keys, how=how)
    ours = np.asarray(jax.jit(second_order.degrade_second_order, static_argnums=2)(x, drawn, scale))
    assert ours.shape == (count, 80, 64, 3)
    for i in range(count):
        theirs = slowly(x[i], jax.tree.map(lambda leaf, i=i: leaf[i], drawn), scale)
        # But for a coefficient of JPEG's, or a level, that rounds the other way: that moves a block a little.
        assert np.abs(ours[i] - theirs).mean() < 1e-3
        assert (np.abs(ours[i] - theirs) > 1e-4).mean() < 0.25


def test_what_is_drawn_is_in_its_ranges():
    keys = jax.random.split(jax.random.key(0), 400)
    drawn = second_order.draw_degradations(keys)
    for step, how in ((drawn.first, second_order.Pass()), (drawn.second, second_order.SecondOrder().second)):
        np.testing.assert_allclose(step.kernel.sum((1, 2)), 1, atol=1e-4)
        factor = np.asarray(step.factor)
        assert how.range[0] <= factor.min() and factor.max() <= how.range[1]
        for share, wanted in zip(((factor > 1).mean(), (factor < 1).mean()), how.resize[:2], strict=True):
            assert abs(share - wanted) < 0.08
        assert abs(np.asarray(step.gaussian).mean() - 0.5) < 0.08
        assert set(np.unique(step.mode)) == {0, 1, 2}
        quality = np.asarray(step.quality)
        assert 30 <= quality.min() < 35 and 90 < quality.max() <= 95
    plain = np.asarray(drawn.second.kernel)[:, 10, 10] == 1
    assert abs(plain.mean() - 0.2) < 0.1  # without blur, or with next to none
    widths = [int((np.abs(kernel).sum(0) > 0).sum()) for kernel in np.asarray(drawn.first.kernel)]
    assert set(widths) <= set(range(1, 22, 2)) and {7, 21} <= set(widths)


def test_noise_has_its_strength():
    x = np.full((2, 200, 200, 3), 0.5, np.float32)
    normal = RNG.normal(size=x.shape).astype(np.float32)
    out = np.asarray(noise.gaussian_noise(x, normal, np.array([0.1, 0.02]), np.array([True, False]))) - x
    np.testing.assert_allclose(out.std((1, 2, 3)), [0.1, 0.02], rtol=0.02)
    assert np.abs(np.diff(out[0], axis=-1)).max() == 0 and np.abs(np.diff(out[1], axis=-1)).max() > 0.01


def test_photons_scatter_by_their_number():
    """Of an image of two levels a white pixel is two counts; of 200 levels it is 256."""
    levels = np.where(np.arange(200) % 2 == 0, 100, 200) / 255
    many = np.arange(200) / 255
    x = np.stack([np.broadcast_to(row[None, :, None], (300, 200, 3)) for row in (levels, many)])
    keys = jax.random.split(jax.random.key(1), 2)
    out = (
        np.asarray(noise.poisson_noise(x.astype(np.float32), keys, np.array([1.0, 1.0]), np.zeros(2, bool)))
        - x
    )
    for row, counts, column in ((0, 2, 0), (0, 2, 1), (1, 256, 150)):
        wanted = np.sqrt(x[row, 0, column, 0] / counts)
        np.testing.assert_allclose(out[row, :, column].std(), wanted, rtol=0.12)
        assert abs(out[row, :, column].mean()) < 4 * wanted / 30


def test_sharpening_leaves_flat_parts():
    x = np.full((1, 90, 90, 3), 0.4, np.float32)
    np.testing.assert_allclose(noise.unsharp_mask(x), x, atol=1e-6)
    x[:, :, 45:] = 0.7
    out = np.asarray(noise.unsharp_mask(x))
    assert out[0, 45, 46, 0] > 0.71 and out[0, 45, 43, 0] < 0.39
    cv2 = pytest.importorskip("cv2")
    taps = cv2.getGaussianKernel(51, 0)
    kernel = (taps @ taps.T).astype(np.float32)
    rest = x[0] - reflected(x[0], kernel)
    soft = reflected((np.abs(rest) * 255 > 10).astype(np.float32), kernel)
    np.testing.assert_allclose(out[0], soft * np.clip(x[0] + 0.5 * rest, 0, 1) + (1 - soft) * x[0], atol=1e-5)
