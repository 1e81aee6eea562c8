"""Blur kernels on disk: as an archive of arrays, and as MATLAB's for other projects' code."""

import io
import os
import pathlib
from typing import Any

import numpy as np

from vaesr.files.arrays import read_npz
from vaesr.files.atomic import write_atomically

_MATLAB = "Kernel"  # what KernelGAN and ZSSR call it
_MOST_SIDE, _MOST_BYTES = 255, 1 << 22


def write_kernel(folder: pathlib.Path, name: str, kernel: np.ndarray, *, scale: int) -> list[pathlib.Path]:
    """Write `name.npz` (arrays "kernel" and "scale") and `name.mat` (`Kernel`): their paths.

    The kernel is `[K, K]`, to be correlated; its centre of mass is at K // 2 + (scale - K mod 2) / 2.
    """
    import scipy.io

    content = io.BytesIO()
    np.savez_compressed(content, kernel=np.asarray(kernel, np.float64), scale=np.array(scale))
    matlab = io.BytesIO()
    scipy.io.savemat(matlab, {_MATLAB: np.asarray(kernel, np.float64)}, do_compression=True)
    paths = [folder / f"{name}.npz", folder / f"{name}.mat"]
    for path, data in zip(paths, (content, matlab), strict=True):
        write_atomically(path, data.getvalue())
    return paths


def read_kernel(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a kernel: `.npz` (array "kernel"), `.npy`, or MATLAB's `.mat` (`Kernel`).

    float64 `[K, L]` of sum 1. A ValueError if the file holds no kernel; an OSError if it cannot be read.
    """
    path = pathlib.Path(path).expanduser()
    content = path.read_bytes()
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{path} has {len(content) / 2**20:.0f} MiB; a kernel has less than 4")
    readers = {".npz": _from_npz, ".npy": _from_npy, ".mat": _from_matlab}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} must end in {', '.join(readers)} to be read as a kernel")
    try:
        found: Any = readers[path.suffix.lower()](content)
    except Exception as error:  # whatever hostile bytes make the readers raise
        words = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} holds no kernel: {words}") from error
    kernel = np.asarray(found)
    numbers = np.issubdtype(kernel.dtype, np.floating) or np.issubdtype(kernel.dtype, np.integer)
    if not numbers or kernel.ndim != 2 or not 0 < max(kernel.shape, default=0) <= _MOST_SIDE:
        raise ValueError(
            f"{path} holds {kernel.dtype} {list(kernel.shape)}; a kernel is [K, L], up to {_MOST_SIDE} a side"
        )
    kernel = kernel.astype(np.float64)
    if not np.isfinite(kernel).all() or not kernel.sum() > 0:
        raise ValueError(f"{path} holds a kernel whose sum is {kernel.sum():g}; it must be above 0")
    return kernel / kernel.sum()


def _from_npz(content: bytes) -> np.ndarray:
    archive = read_npz(content)
    if "kernel" not in archive:
        raise ValueError(f"it has {', '.join(sorted(archive))}, no array named kernel")
    return archive["kernel"]


def _from_npy(content: bytes) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


def _from_matlab(content: bytes) -> np.ndarray:
    import scipy.io

    found = scipy.io.loadmat(io.BytesIO(content), variable_names=[_MATLAB])
    if _MATLAB not in found:
        raise ValueError(f"it has no variable {_MATLAB}")
    return np.asarray(found[_MATLAB])
