"""Archives of arrays (`.npz`) whose content is bounded by their own size."""

import io
import os
import pathlib
import zipfile
import zlib

import numpy as np

# Deflated numbers are rarely a tenth of their size; what would grow more is no archive of ours.
_GROWTH = 64
_SPARE = 1 << 22


def read_npz(source: str | os.PathLike[str] | bytes) -> dict[str, np.ndarray]:
    """Reads an archive of arrays: a file, or its content.

    A ValueError if it is no such archive, is damaged, holds Python objects, or would grow to more than 64
    times its size; an OSError if it cannot be read.
    """
    content = source if isinstance(source, bytes) else pathlib.Path(source).read_bytes()
    most = _GROWTH * len(content) + _SPARE
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            if sum(member.file_size for member in members) > most:
                raise ValueError(f"it would grow to more than {_GROWTH} times its size")
            found = {}
            for member in members:
                with archive.open(member) as file:
                    found[member.filename.removesuffix(".npy")] = _read_array(file.read(most), most)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"it is no archive of arrays: {error or type(error).__name__}") from error
    if not found:
        raise ValueError("it holds no arrays")
    return found


def _read_array(content: bytes, most: int) -> np.ndarray:
    """One array whose shape its content must fill, before anything is made of that size."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"it has an array of version {version}")
    shape, _, kind = readers[version](file)
    size = kind.itemsize
    for side in shape:  # Python's numbers, that don't overflow
        size *= side
    if kind.hasobject or size > most or size != len(content) - file.tell():
        raise ValueError(f"it has an array whose content doesn't fill its shape {shape}")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
