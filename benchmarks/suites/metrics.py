"""Image quality metrics on batches of small images and on one large one, beside piq and scikit-image.

Values are compared before timing. piq differs from the authors' definitions, which ours follow, by what
`_APART` says; a side that is further away is not timed.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from benchmarks.options import Options
from benchmarks.peers import image_metrics, torch_common
from vaesr import metrics
from vaesr.metrics import RGB

# How far piq's value may be from ours: rounding, and where its definition differs, by how much at most.
_APART = {
    "psnr": 1e-3, "ssim": 1e-4, "ms_ssim": 5e-3, "iw_ssim": 5e-4, "gmsd": 1e-3, "fsim": 1e-3, "fsimc": 1e-3,
    "vsi": 5e-3,
}  # fmt: skip
_OURS: dict[str, Callable[..., jax.Array]] = {
    "psnr": metrics.psnr,
    "ssim": metrics.ssim,
    # Channel by channel, as piq does.
    "ms_ssim": functools.partial(metrics.ms_ssim, protocol=RGB),
    "iw_ssim": metrics.iw_ssim,
    "gmsd": metrics.gmsd,
    "fsim": metrics.fsim,
    "fsimc": metrics.fsimc,
    "vsi": metrics.vsi,
    "sff": metrics.sff,
}


def names() -> list[str]:
    """What can be asked for: the metrics."""
    return list(_OURS)


def cases(options: Options) -> Iterator[timing.Case]:
    """Every metric on a batch of 256x256 and on 1920x1080, SFF without a peer."""
    shapes = [(64 if options.accelerator else 16, 256, 256), (8 if options.accelerator else 1, 1080, 1920)]
    if options.smoke:
        shapes = [(2, 176, 176)]
    for shape in shapes:
        x, y = _images(*shape)
        for name in _OURS:
            if options.wants(name):
                yield _case(name, x, y, options)


def _images(count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random images with edges, and noisy versions: `[B, H, W, 3]` float32 in [0, 1]."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(size=(count, height // 8 + 2, width // 8 + 2, 3))
    x = coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    x = (x + np.roll(x, 3, 1) + np.roll(x, 5, 2)) / 3
    y = np.clip(x + rng.normal(size=x.shape) * 0.05, 0, 1)
    # On the 8-bit grid, as photographs are: peers that round see what we see.
    x, y = (np.rint(i * 255) / 255 for i in (x, y))
    return x.astype(np.float32), y.astype(np.float32)


def _case(name: str, x: np.ndarray, y: np.ndarray, options: Options) -> timing.Case:
    metric = jax.jit(_OURS[name])
    a, b = jax.device_put((x, y))
    ours = np.asarray(metric(a, b))
    batch = f"{len(x)} of {x.shape[2]}x{x.shape[1]}"
    run = functools.partial(_run, metric, a, b)
    case = timing.Case("metrics", f"{name}, {batch}", [timing.Side("vaesr", "vaesr", run, len(x))])
    case.sides[0].check = lambda: {"finite": bool(np.isfinite(ours).all())}
    if "piq" in options.peers:
        _add_piq(case, name, x, y, ours, options)
        _add_skimage(case, name, x, y, ours)
    return case


def _run(metric: Callable[..., jax.Array], x: jax.Array, y: jax.Array, calls: int) -> None:
    for _ in range(calls):
        result = jax.block_until_ready(metric(x, y))
    del result


def _add_piq(
    case: timing.Case, name: str, x: np.ndarray, y: np.ndarray, ours: np.ndarray, options: Options
) -> None:
    reason = image_metrics.missing("piq")
    if reason:
        case.absent.append(("piq", reason))
        return
    torch = torch_common.load(options.threads)
    metric = image_metrics.piq_metrics().get(name)
    if metric is None:
        case.absent.append(("piq", "has no such metric"))
        return
    a, b = (torch.from_numpy(i.transpose(0, 3, 1, 2).copy()).to(torch_common.device()) for i in (x, y))

    def run(calls: int) -> None:
        with torch.inference_mode():
            for _ in range(calls):
                metric(a, b)
            torch_common.wait()

    with torch.inference_mode():
        theirs = metric(a, b).cpu().numpy().reshape(-1)
    _compare(case, "piq", theirs, ours, _APART[name])
    case.sides.append(timing.Side("piq", "piq", run, len(x)))


def _add_skimage(case: timing.Case, name: str, x: np.ndarray, y: np.ndarray, ours: np.ndarray) -> None:
    if image_metrics.missing("skimage"):
        return
    metric = image_metrics.skimage_metrics().get(name)
    if metric is None:
        return

    def run(calls: int) -> None:
        for _ in range(calls):
            image_metrics.over_batch(metric, x, y)

    _compare(case, "scikit-image", image_metrics.over_batch(metric, x, y), ours, 1e-3)
    case.sides.append(timing.Side("scikit-image", "scikit-image", run, len(x)))


def _compare(case: timing.Case, side: str, theirs: np.ndarray, ours: np.ndarray, most: float) -> None:
    apart = float(np.abs(theirs - ours).max())
    before: dict[str, Any] = case.parity or {"passed": True}
    case.parity = {**before, side: apart, "passed": before["passed"] and apart <= most}
