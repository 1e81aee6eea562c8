"""The metrics that `vaesr evaluate` knows by name, and what they make of a batch of images."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vaesr import metrics, pretrained
from vaesr.metrics import DIV2K_VALIDATION, GREY, MATLAB_GREY, RGB, SR_BENCHMARK, Protocol
from vaesr.pretrained.kept import weight_file

Score = Callable[[Any, Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric, ready to score; its name is the command line's, with underscores.

    `score` takes `(reference, image)`, `[B, H, W, C]` floats in [0, 1], and gives `[B]`; a no-reference
    metric ignores the first. The unit is "dB" or ""; `protocol` says in words what is compared.
    """

    name: str
    score: Score
    higher_is_better: bool
    unit: str
    protocol: str
    needs_reference: bool = True


# Each metric, whether higher is better, and the protocol that its authors or its users take.
_PLAIN: dict[str, tuple[Callable[..., jax.Array], bool, Protocol]] = {
    "psnr": (metrics.psnr, True, RGB),
    "ssim": (metrics.ssim, True, RGB),
    "ms_ssim": (metrics.ms_ssim, True, GREY),
    "iw_ssim": (metrics.iw_ssim, True, GREY),
    "gmsd": (metrics.gmsd, False, GREY),
    "fsim": (metrics.fsim, True, RGB),
    "fsimc": (metrics.fsimc, True, RGB),
    "vsi": (metrics.vsi, True, RGB),
    "sff": (metrics.sff, True, RGB),
    "niqe": (metrics.niqe, False, MATLAB_GREY),
}
_LEARNED = ("lpips_alex", "lpips_vgg", "lpips_squeeze", "dists")
NAMES = (*_PLAIN, *_LEARNED)
"""All names; "all" on the command line is those that need no weights and have a reference."""
PROTOCOLS = "own, rgb, y, grey, matlab-grey, pirm, sr:SCALE or div2k:SCALE"


def read_protocol(text: str) -> Protocol | None:
    """Reads a protocol's name; None for "own", each metric's own.

    Others are "rgb", "y", "grey", "matlab-grey", "sr:4" (SR benchmarks: 8-bit luma, 4 pixels shaved),
    "div2k:4", or "pirm" (of NIQE).
    """
    plain = {
        "own": None,
        "rgb": RGB,
        "y": Protocol(channels="y"),
        "grey": GREY,
        "matlab-grey": MATLAB_GREY,
        "pirm": metrics.PIRM,
    }
    if text in plain:
        return plain[text]
    kind, _, scale = text.partition(":")
    if kind in ("sr", "div2k") and scale.isdigit() and int(scale) > 0:
        return (SR_BENCHMARK if kind == "sr" else DIV2K_VALIDATION)(int(scale))
    raise ValueError(f"the protocol must be {PROTOCOLS}, got {text!r}")


def describe_protocol(protocol: Protocol) -> str:
    """Returns a protocol in a few words, for example "luma, 8 bits, 4 pixels shaved"."""
    channels = {"rgb": "all channels", "y": "luma", "grey": "grey"}[protocol.channels]
    words = [channels, *(["8 bits"] if protocol.quantise else [])]
    return ", ".join([*words, *([f"{protocol.shave} pixels shaved"] if protocol.shave else [])])


def find_metrics(
    text: str,
    protocol: Protocol | None = None,
    *,
    niqe_model: str | None = None,
    sff_detector: str | None = None,
) -> list[Metric]:
    """Makes the metrics that are asked for, in the order given, each once.

    The names have commas between, and hyphens or underscores; or are "all". The protocol is for all of them,
    None is each one's own. `niqe_model` is a file of NIQE's parameters, None the authors' own; `sff_detector`
    one of SFF's matrix, None ours. A FileNotFoundError where the weights of one are not there yet.
    """
    learned: dict[str, dict[str, Any]] = {
        "niqe": {"model": metrics.load_niqe_model(niqe_model)} if niqe_model else {},
        "sff": {"detector": metrics.load_sff_detector(sff_detector)} if sff_detector else {},
    }
    asked = [name.strip().lower().replace("-", "_") for name in text.split(",") if name.strip()]
    if asked == ["all"]:
        asked = [name for name in _PLAIN if name != "niqe"]
    unknown = [name for name in asked if name not in NAMES]
    if unknown or not asked:
        raise ValueError(f"--metrics: {', '.join(unknown) or 'nothing'} given; known are {', '.join(NAMES)}")
    return [_metric(name, protocol, learned.get(name, {})) for name in dict.fromkeys(asked)]


def _metric(name: str, protocol: Protocol | None, learned: dict[str, Any]) -> Metric:
    if name in _LEARNED:
        return _learned_metric(name, protocol or RGB)
    metric, higher, own = _PLAIN[name]
    # NIQE measures one channel; "rgb" says nothing about which.
    chosen = own if protocol is None or (name == "niqe" and protocol.channels == "rgb") else protocol
    unit, words = "dB" if name == "psnr" else "", describe_protocol(chosen)
    if name == "niqe":
        return Metric(name, lambda _, x: metric(x, protocol=chosen, **learned), higher, unit, words, False)
    return Metric(name, lambda x, y: metric(x, y, protocol=chosen, **learned), higher, unit, words)


def _learned_metric(name: str, protocol: Protocol) -> Metric:
    path = weight_file(name.replace("_", "-"))
    if not path.is_file():
        raise FileNotFoundError(f"{name} needs weights: run `vaesr convert {name.replace('_', '-')}` first")
    metric: Any = metrics.dists if name == "dists" else metrics.lpips
    network = jax.device_put((pretrained.load_dists if name == "dists" else pretrained.load_lpips)(path))
    words = describe_protocol(protocol)
    return Metric(name, lambda x, y: metric(x, y, network=network, protocol=protocol), False, "", words)


def measure_batch(
    chosen: Sequence[Metric], reference: np.ndarray | jax.Array, image: np.ndarray | jax.Array
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Scores a batch with every metric; one that cannot say anything of such images gives NaN.

    Images are `[B, H, W, C]` floats in [0, 1]. Returns `[B]` by name, and the reasons of those that refused.
    """
    scores: dict[str, np.ndarray] = {}
    refused = {}
    for metric in chosen:
        try:
            # Waits: programs in flight beside one another gain nothing here.
            scores[metric.name] = np.asarray(metric.score(reference, image), np.float64)
        except (ValueError, MemoryError, RuntimeError) as error:
            # Too small for its windows, of a number of channels that it doesn't take, or too large.
            refused[metric.name] = str(error)
            scores[metric.name] = np.full(len(image), math.nan)
    return scores, refused
