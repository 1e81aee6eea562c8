"""The metrics once more in float64 NumPy and scipy, one image at a time, from the papers' formulas."""

import math

import numpy as np
from scipy import ndimage, signal

SCHARR = np.array([[3, 0, -3], [10, 0, -10], [3, 0, -3]]) / 16
PREWITT = np.array([[1, 0, -1]] * 3) / 3


def grey(image):
    """8-bit grey of uint8 RGB."""
    if image.ndim == 2:
        return image.astype(float)
    return np.floor(image @ np.array([0.298936021293775, 0.587043074451121, 0.114020904255103]) + 0.5)


def colours(image):
    return (np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image).astype(float)


def factor(image):
    return max(1, math.floor(min(image.shape[:2]) / 256 + 0.5))


def thinned(image, f):
    """MATLAB's conv2(image, fspecial('average', f), 'same')(1:f:end, 1:f:end)."""
    full = signal.convolve2d(image, np.full((f, f), 1 / f**2), mode="full")
    first = math.ceil((f + 1) / 2) - 1 if f % 2 else f // 2
    return full[first : first + image.shape[0], first : first + image.shape[1]][::f, ::f]


def gradient(image, kernel):
    return np.hypot(
        signal.convolve2d(image, kernel, mode="same"), signal.convolve2d(image, kernel.T, mode="same")
    )


def alike(a, b, c):
    return (2 * a * b + c) / (a**2 + b**2 + c)


def window():
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    return np.outer(taps, taps) / taps.sum() ** 2


def ssim_maps(x, y, c1, c2):
    blur = lambda i: signal.convolve2d(i, window(), mode="valid")
    mx, my = blur(x), blur(y)
    return alike(mx, my, c1), (2 * (blur(x * y) - mx * my) + c2) / (
        blur(x * x) - mx**2 + blur(y * y) - my**2 + c2
    )


def halved_symmetric(image, f):
    before = (f - 1) // 2
    padded = np.pad(image, ((before, f), (before, f)), mode="symmetric")
    full = signal.convolve2d(padded, np.full((f, f), 1 / f**2), mode="valid")
    return full[: image.shape[0], : image.shape[1]][::f, ::f]


C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])


def ssim(x, y):
    x, y = grey(x), grey(y)
    f = factor(x)
    x, y = (halved_symmetric(i, f) if f > 1 else i for i in (x, y))
    return np.multiply(*ssim_maps(x, y, C1, C2)).mean()


def ms_ssim(x, y):
    x, y = grey(x), grey(y)
    terms = []
    for scale in range(5):
        luminance, structure = ssim_maps(x, y, C1, C2)
        terms.append((luminance * structure if scale == 4 else structure).mean())
        x, y = halved_symmetric(x, 2), halved_symmetric(y, 2)
    return np.prod(np.array(terms) ** WEIGHTS)


def gmsd(x, y):
    a, b = (gradient(thinned(grey(i), 2), PREWITT) for i in (x, y))
    return alike(a, b, 170).std(ddof=1)


def frequencies(n):
    return np.arange(-(n // 2), n - n // 2) / (n - 1 if n % 2 else n)


def phase_congruency(image):
    rows, columns = image.shape
    u, v = np.meshgrid(frequencies(columns), frequencies(rows))
    radius, theta = np.fft.ifftshift(np.hypot(u, v)), np.fft.ifftshift(np.arctan2(-v, u))
    low = 1 / (1 + (radius / 0.45) ** 30)
    radius[0, 0] = 1
    spectrum = np.fft.fft2(image)
    energies, amplitudes = 0, 0
    for angle in np.arange(4) * np.pi / 4:
        ds = np.sin(theta) * np.cos(angle) - np.cos(theta) * np.sin(angle)
        dc = np.cos(theta) * np.cos(angle) + np.sin(theta) * np.sin(angle)
        spread = np.exp(-(np.arctan2(ds, dc) ** 2) / (2 * (np.pi / 4 / 1.2) ** 2))
        responses, bank = [], []
        for scale in range(4):
            radial = np.exp(-(np.log(radius * 6 * 2**scale) ** 2) / (2 * np.log(0.55) ** 2)) * low
            radial[0, 0] = 0
            responses.append(np.fft.ifft2(spectrum * radial * spread))
            bank.append(radial * spread)
        total = sum(responses)
        unit = total / (np.abs(total) + 1e-4)
        energy = sum(
            r.real * unit.real + r.imag * unit.imag - abs(r.real * unit.imag - r.imag * unit.real)
            for r in responses
        )
        power = np.median(np.abs(responses[0]) ** 2) / -np.log(0.5) / (bank[0] ** 2).sum()
        spatial = [np.fft.ifft2(f).real * np.sqrt(rows * columns) for f in bank]
        own = sum((f**2).sum() for f in spatial)
        cross = sum((spatial[i] * spatial[j]).sum() for i in range(4) for j in range(i + 1, 4))
        tau = np.sqrt((2 * power * own + 4 * power * cross) / 2)
        noise = (tau * np.sqrt(np.pi / 2) + 2 * np.sqrt((2 - np.pi / 2) * tau**2)) / 1.7
        energies = energies + np.maximum(energy - noise, 0)
        amplitudes = amplitudes + sum(np.abs(r) for r in responses)
    return energies / amplitudes


def fsims(x, y):
    """FSIM and FSIMc."""
    f = factor(x)
    matrix = [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]
    (y1, i1, q1), (y2, i2, q2) = ([thinned(colours(i) @ row, f) for row in np.array(matrix)] for i in (x, y))
    p1, p2 = phase_congruency(y1), phase_congruency(y2)
    similar = alike(p1, p2, 0.85) * alike(gradient(y1, SCHARR), gradient(y2, SCHARR), 160)
    chroma = np.real((alike(i1, i2, 200) * alike(q1, q2, 200)).astype(complex) ** 0.03)
    weight = np.maximum(p1, p2)
    return (similar * weight).sum() / weight.sum(), (similar * chroma * weight).sum() / weight.sum()


def bilinear(image, height, width):
    """MATLAB's imresize(image, [height, width], 'bilinear') by the sum over all pixels."""
    for axis, length in ((0, height), (1, width)):
        n = image.shape[axis]
        scale = length / n
        stretch = min(scale, 1.0)
        place = (np.arange(length) + 0.5) / scale - 0.5
        # Mirrored three times over, so that every kernel fits.
        around = np.arange(-n, 2 * n)
        weight = np.maximum(1 - np.abs(stretch * (place[:, None] - around)), 0)
        weight /= weight.sum(1, keepdims=True)
        matrix = weight[:, :n][:, ::-1] + weight[:, n : 2 * n] + weight[:, 2 * n :][:, ::-1]
        image = np.moveaxis(np.tensordot(matrix, image, (1, axis)), 0, axis)
    return image


def stretched(x):
    return (x - x.min()) / (x.max() - x.min())


def saliency(image):
    small = bilinear(image, 256, 256) / 255
    linear = np.where(small > 0.04045, ((small + 0.055) / 1.055) ** 2.4, small / 12.92)
    xyz = linear @ np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    ).T / np.array([0.9642, 1.0, 0.8251])  # fmt: skip
    f = np.where(xyz > 0.008856, np.cbrt(xyz), (903.3 * xyz + 16) / 116)
    lab = [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])]
    u, v = np.meshgrid(np.arange(-128, 128) / 256, np.arange(-128, 128) / 256)
    radius = np.fft.ifftshift(np.hypot(u, v))
    with np.errstate(divide="ignore"):
        band = np.where(
            (radius > 0.5) | (radius == 0), 0, np.exp(-(np.log(radius / 0.021) ** 2) / (2 * 1.34**2))
        )
    passed = np.sqrt(sum(np.fft.ifft2(np.fft.fft2(channel) * band).real ** 2 for channel in lab))
    rows, columns = np.mgrid[1:257, 1:257]
    centre = np.exp(-((rows - 128) ** 2 + (columns - 128) ** 2) / 145**2)
    warm = 1 - np.exp(-(stretched(lab[1]) ** 2 + stretched(lab[2]) ** 2) / 0.001**2)
    return stretched(bilinear(passed * centre * warm, *image.shape[:2]))


def vsi(x, y):
    x, y = colours(x), colours(y)
    f = factor(x)
    lmn = np.array([[0.06, 0.63, 0.27], [0.30, 0.04, -0.35], [0.34, -0.60, 0.17]])
    (s1, l1, m1, n1), (s2, l2, m2, n2) = (
        [thinned(i, f) for i in (saliency(image), *(image @ row for row in lmn))] for image in (x, y)
    )
    edges = alike(gradient(l1, SCHARR), gradient(l2, SCHARR), 386) ** 0.4
    chroma = np.real((alike(m1, m2, 130) * alike(n1, n2, 130)).astype(complex) ** 0.02)
    weight = np.maximum(s1, s2)
    return (alike(s1, s2, 1.27) * edges * chroma * weight).sum() / weight.sum()


BINOMIAL = np.sqrt(2) * np.array([1, 4, 6, 4, 1]) / 16


def smoothed(image):
    for axis in (0, 1):
        image = ndimage.correlate1d(image, BINOMIAL, axis=axis, mode="mirror")
    return image


def pyramid(image):
    bands = []
    for _ in range(4):
        low = smoothed(image)[::2, ::2]
        wide = np.zeros_like(image)
        wide[::2, ::2] = low
        bands.append(image - smoothed(wide))
        image = low
    return [*bands, image]


def enlarged(band, height, width):
    """The authors' imenlarge2."""
    m, n = band.shape
    big = np.zeros((4 * m - 1, 4 * n - 1))
    big[1:-1, 1:-1] = bilinear(band, 4 * m - 3, 4 * n - 3)
    big[0], big[-1] = 2 * big[1] - big[2], 2 * big[-2] - big[-3]
    big[:, 0], big[:, -1] = 2 * big[:, 1] - big[:, 2], 2 * big[:, -2] - big[:, -3]
    return big[::2, ::2][:height, :width]


def information(x, y, parent):
    mean = lambda i: signal.convolve2d(i, np.full((3, 3), 1 / 9), mode="same")
    mx, my = mean(x), mean(y)
    vx, vy = np.maximum(mean(x * x) - mx**2, 0), np.maximum(mean(y * y) - my**2, 0)
    cov = mean(x * y) - mx * my
    gain = cov / (vx + 1e-15)
    error = vy - gain * cov
    height, width = x.shape
    columns = [x[i : height - 2 + i, j : width - 2 + j].ravel() for i in range(3) for j in range(3)]
    if parent is not None:
        columns.append(enlarged(parent, height, width)[1:-1, 1:-1].ravel())
    samples = np.stack(columns, 1)
    covariance = samples.T @ samples / len(samples)
    scale = np.einsum("ni,ij,nj->n", samples, np.linalg.inv(covariance), samples) / samples.shape[1]
    gain, error = gain[1:-1, 1:-1], error[1:-1, 1:-1]
    scale = scale.reshape(gain.shape)
    return sum(
        np.log2(1 + ((error + (1 + gain**2) * 0.4) * scale * value + 0.4 * error) / 0.4**2)
        for value in np.linalg.eigvalsh(covariance)
    )


def iw_ssim(x, y):
    bands_x, bands_y = pyramid(grey(x)), pyramid(grey(y))
    terms = []
    for scale in range(5):
        a, b = bands_x[scale], bands_y[scale]
        luminance, structure = ssim_maps(a, b, C1, C2)
        if scale == 4:
            terms.append((luminance * structure).mean())
            continue
        weight = information(a, b, bands_x[scale + 1] if scale < 3 else None)[4:-4, 4:-4]
        terms.append((structure * weight).sum() / weight.sum())
    return np.prod(np.array(terms) ** (WEIGHTS / WEIGHTS.sum()))


def sff(x, y, matrix):
    x, y = colours(x), colours(y)
    corners = [(i, j) for i in range(0, x.shape[0] - 8, 8) for j in range(0, x.shape[1] - 8, 8)]
    cut = lambda a: np.stack([a[i : i + 8, j : j + 8].transpose(2, 1, 0).ravel() for i, j in corners])
    a, b = cut(x), cut(y)
    mean_a, mean_b = a.mean(1), b.mean(1)
    a, b = a - mean_a[:, None], b - mean_b[:, None]
    # Rounded, so that ties are ties.
    apart = np.abs(a - b).mean(1).round(9)
    chosen = apart >= np.median(apart)
    ra, rb = a[chosen] @ matrix.T, b[chosen] @ matrix.T
    strength = (ra**2).sum(1)
    seen = strength > 0.4 * strength.mean()
    feature = alike(ra[seen], rb[seen], 0.08).mean()
    apart = np.abs(mean_a - mean_b).round(9)
    chosen = apart >= np.median(apart)
    u, v = (m[chosen] - m[chosen].mean() for m in (mean_a, mean_b))
    luminance = ((u * v).sum() + 0.001) / (np.sqrt((u**2).sum() * (v**2).sum()) + 0.001)
    return 0.8 * luminance + 0.2 * feature
