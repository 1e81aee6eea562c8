"""From the command to the first photo: `vaesr upscale` as a process of its own, beside its network alone.

Cold: nothing was compiled before, as after an installation. Warm: what the command compiled before is kept.
"Images" are photos. Where the clock is CPU time, that of the started process counts.
"""

import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks import timing, trainings
from benchmarks.options import Options
from benchmarks.suites import tiles
from vaesr.files.images import Photo, read_photo, write_photo
from vaesr.inference.networks import load_network
from vaesr.inference.upscaling import upscale
from vaesr.models.rrdb import RRDBNet
from vaesr.pretrained import write_checkpoint, write_network

_NAME = "rrdb23"


def names() -> list[str]:
    """What can be asked for: the network."""
    return [_NAME]


def cases(options: Options) -> Iterator[timing.Case]:
    """Real-ESRGAN's network, of random weights, on one small photo."""
    if not options.wants(_NAME):
        return
    model, size = (trainings.shrunk(RRDBNet()), (24, 32)) if options.smoke else (RRDBNet(), (150, 200))
    with tempfile.TemporaryDirectory(prefix="vaesr-startup-") as name:
        yield _case(pathlib.Path(name), model, size)


def _case(folder: pathlib.Path, model: RRDBNet, size: tuple[int, int]) -> timing.Case:
    weights, photo = folder / "network.pth", tiles._photo(*size)
    params = tiles._network("", model).collections["params"]
    weights.write_bytes(write_checkpoint(weights, write_network(model, params, "esrgan"), wrapper="params"))
    write_photo(folder / "photo.png", Photo(photo))
    alone = functools.partial(upscale, load_network(weights), photo)
    _command(folder, cold=False)  # compiles for the warm ones
    difference = np.abs(read_photo(folder / "larger.png").pixels.astype(int) - alone().astype(int)).max()
    parity = {"passed": bool(difference <= 1), "output": difference / 255, "losses": 0.0}
    sides = [
        timing.Side(f"vaesr upscale, {how}", "vaesr", functools.partial(_repeat, command), 1)
        for how, command in (
            ("cold", functools.partial(_command, folder, cold=True)),
            ("warm", functools.partial(_command, folder, cold=False)),
        )
    ]
    sides.append(timing.Side("network", "network", functools.partial(_repeat, alone), 1))
    title = f"upscale, {model.blocks} blocks x{model.scale}, {size[1]}x{size[0]}"
    return timing.Case("startup", title, sides, parity, long=True, slow=True)


def _command(folder: pathlib.Path, *, cold: bool) -> None:
    """One `vaesr upscale`, which leaves what it compiled in a cache of its own."""
    cache = folder / ("cold" if cold else "warm")
    if cold:
        shutil.rmtree(cache, ignore_errors=True)
    words = ["-i", str(folder / "photo.png"), "-o", str(folder / "larger.png")]
    words += ["--model-path", str(folder / "network.pth")]
    environment = {**os.environ, "VAESR_CACHE": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-m", "vaesr", "upscale", *words],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"vaesr upscale failed with {done.returncode}: {done.stderr[-1000:]}")


def _repeat(call: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        call()
