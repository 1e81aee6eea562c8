"""piq's and scikit-image's metrics, for the `metrics` suite."""

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

# Image `[H, W, C]` uint8 and its distorted version -> score.
Metric = Callable[[Any, Any], Any]


def missing(package: str) -> str | None:
    """Why a peer, "piq" or "skimage", can't be measured; None if it can."""
    needed = ("piq", "torch") if package == "piq" else (package,)
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed" if absent else None


def load_piq() -> Any:
    """Imports piq, with a torchvision of empty classes where there is none.

    piq imports torchvision for its deep metrics, which are not measured here; CPU builds of torch often come
    without it.
    """
    if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        import torch

        class Hollow(types.ModuleType):
            def __getattr__(self, name: str) -> Any:
                if name.startswith("__"):
                    raise AttributeError(name)
                return type(name, (torch.nn.Module,), {})

        for name in ("torchvision", "torchvision.models", "torchvision.models.inception"):
            sys.modules[name] = Hollow(name)
        sys.modules["torchvision"].models = sys.modules["torchvision.models"]  # type: ignore[attr-defined]
        inception = sys.modules["torchvision.models.inception"]
        sys.modules["torchvision.models"].inception = inception  # type: ignore[attr-defined]
    import piq

    return piq


def piq_metrics() -> dict[str, Metric]:
    """piq's metrics, set to the definitions that ours have.

    Functions of torch images `[B, 3, H, W]` in [0, 1], giving `[B]`.
    """
    piq = load_piq()
    of = {"reduction": "none", "data_range": 1.0}
    return {
        "psnr": lambda x, y: piq.psnr(x, y, **of),
        "ssim": lambda x, y: piq.ssim(x, y, downsample=False, **of),
        "ms_ssim": lambda x, y: piq.multi_scale_ssim(x, y, **of),
        # The one that is not symmetric: piq takes the distorted image first.
        "iw_ssim": lambda x, y: piq.information_weighted_ssim(y, x, **of),
        "gmsd": lambda x, y: piq.gmsd(x, y, **of),
        "fsim": lambda x, y: piq.fsim(x, y, chromatic=False, **of),
        "fsimc": lambda x, y: piq.fsim(x, y, chromatic=True, **of),
        "vsi": lambda x, y: piq.vsi(x, y, **of),
    }


def skimage_metrics() -> dict[str, Metric]:
    """scikit-image's metrics, set to the definitions that ours have; one image at a time.

    Functions of float32 images `[H, W, 3]` in [0, 1], giving a number.
    """
    from skimage import metrics

    return {
        "psnr": lambda x, y: metrics.peak_signal_noise_ratio(x, y, data_range=1.0),
        "ssim": lambda x, y: metrics.structural_similarity(
            x, y, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=1.0,
        ),
    }  # fmt: skip


def over_batch(metric: Metric, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Applies a metric of one image `[H, W, C]` to each of a batch `[B, H, W, C]`: `[B]`."""
    return np.array([metric(a, b) for a, b in zip(x, y, strict=True)])
