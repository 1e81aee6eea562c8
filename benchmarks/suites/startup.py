"""From the command to the first photo: `vaesr upscale` as a process of its own, beside its network alone.

Cold: nothing was compiled before, as after an installation. Warm: what the command compiled before is kept.
"Images" are photos. The process's own CPU time counts where the clock is CPU time.
"""

import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import numpy as np

from benchmarks import timing, trainings
from benchmarks.options import Options
from benchmarks.suites import tiles
from vaesr.files.images import Photo, read_photo, write_photo
from vaesr.inference.upscalers import load_upscaler
from vaesr.inference.upscaling import upscale
from vaesr.models.rrdb import RRDBNet
from vaesr.pretrained import write_checkpoint, write_upscaler


def cases(options: Options) -> Iterator[timing.Case]:
    """Real-ESRGAN's network, of random weights, on one small photo."""
    model, size = (trainings.shrunk(RRDBNet()), (24, 32)) if options.smoke else (RRDBNet(), (150, 200))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vaesr-startup-"))
    weights, photo = folder / "network.pth", folder / "photo.png"
    params = tiles._network("", model).collections["params"]
    weights.write_bytes(write_checkpoint(weights, write_upscaler(model, params, "esrgan"), wrapper="params"))
    write_photo(photo, Photo(tiles._photo(*size)))
    command = functools.partial(_command, folder, weights, photo)
    run = load_upscaler(weights)
    alone = functools.partial(upscale, run, tiles._photo(*size))
    title = f"upscale, {model.blocks} blocks x{model.scale}, {size[1]}x{size[0]}"
    case = timing.Case("startup", title, [], long=True)
    case.sides = [
        timing.Side("vaesr upscale, cold", "vaesr", functools.partial(_repeat, command, cold=True), 1),
        timing.Side("vaesr upscale, warm", "vaesr", functools.partial(_repeat, command, cold=False), 1),
        timing.Side("network", "network", functools.partial(_repeat, alone), 1),
    ]
    command(cold=False)  # compiles for the warm ones
    difference = np.abs(read_photo(folder / "larger.png").pixels.astype(int) - alone().astype(int)).max()
    case.parity = {"passed": bool(difference <= 1), "output": difference / 255, "losses": 0.0}
    case.sides[-1].close = functools.partial(shutil.rmtree, folder)
    yield case


def _command(folder: pathlib.Path, weights: pathlib.Path, photo: pathlib.Path, *, cold: bool) -> None:
    """One `vaesr upscale`, which leaves what it compiled in a cache of its own."""
    cache = folder / ("cold" if cold else "warm")
    if cold:
        shutil.rmtree(cache, ignore_errors=True)
    words = ["upscale", "-i", str(photo), "-o", str(folder / "larger.png"), "--model-path", str(weights)]
    environment = {**os.environ, "VAESR_CACHE": str(cache)}
    subprocess.run([sys.executable, "-m", "vaesr", *words], env=environment, check=True, capture_output=True)


def _repeat(call: functools.partial[object], calls: int, **how: bool) -> None:
    for _ in range(calls):
        call(**how)
