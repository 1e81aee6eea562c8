"""`idx:PATH` (MNIST-family files) and `npy:PATH` (arrays): images that are arrays already."""

from __future__ import annotations

import gzip
import json
import math
import pathlib
import re
import zlib

import numpy as np

from vaesr.data.source import Source, stamp
from vaesr.data.splits import SPLITS
from vaesr.data.writer import BankWriter

_BLOCK = 4096  # images converted at a time
_IDX_PREFIX = {"train": "train", "validation": "validation|valid|val", "test": "t10k|test"}


def find_idx(spec: str, path: pathlib.Path) -> Source:
    """Find the IDX files (`train-images-idx3-ubyte[.gz]`, `t10k-...`, with labels if any) in a folder.

    A ValueError if there are no training images, or two files claim one place; `spec` is for messages.
    """
    if not path.is_dir():
        raise NotADirectoryError(
            f"data source {spec!r}: {path} is a file; expected the folder that holds the IDX files"
        )
    found: dict[str, dict[str, pathlib.Path]] = {}
    for split in SPLITS:
        images, labels = (_one_idx(spec, path, split, part) for part in ("images", "labels"))
        if images:
            found[split] = {"images": images} | ({"labels": labels} if labels else {})
    if "train" not in found:
        names = ", ".join(sorted(file.name for file in path.iterdir())[:10]) or "nothing"
        raise ValueError(f"data source {spec!r}: no train-images-idx3-ubyte[.gz] in {path}; it holds {names}")
    if len({"labels" in files for files in found.values()}) > 1:
        raise ValueError(f"data source {spec!r}: some splits in {path} have a labels file and some have none")
    fingerprint = json.dumps(["idx", [stamp(file) for files in found.values() for file in files.values()]])
    return Source(spec, fingerprint, lambda writer: _write_idx(writer, found))


def _one_idx(spec: str, folder: pathlib.Path, split: str, part: str) -> pathlib.Path | None:
    pattern = re.compile(rf"(.*[-_.])?({_IDX_PREFIX[split]})[-_.]{part}.*?(\.gz)?")
    files = sorted(file for file in folder.iterdir() if file.is_file() and pattern.fullmatch(file.name))
    plain = [file for file in files if file.suffix != ".gz"]
    files = plain or files  # unpacked beside the packed: the same file twice
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"data source {spec!r}: {len(files)} files claim to be the {split} {part}: {names}")
    return files[0] if files else None


def read_idx(path: pathlib.Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes, gzipped if its name ends in `.gz`, in the shape its header states.

    A ValueError if the file is damaged, of another type, or its header and length disagree. Source: Y. LeCun,
    "The MNIST database of handwritten digits", the IDX file format.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"IDX file {path} is damaged or truncated: {error}") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != 8 or not 1 <= data[3] <= 4:
        raise ValueError(
            f"IDX file {path} does not begin with an IDX header of unsigned bytes (00 00 08, then 1 to 4 "
            f"dimensions), but with {data[:4].hex(' ') or 'nothing'}"
        )
    rank = data[3]
    header = data[4 : 4 + 4 * rank].ljust(4 * rank, b"\0")  # a file cut in its header fails below
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
    expected = 4 + 4 * rank + math.prod(shape)
    if len(data) != expected:
        raise ValueError(
            f"IDX file {path}: its header says {list(shape)}, {expected} bytes, but it has {len(data)}"
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _write_idx(writer: BankWriter, found: dict[str, dict[str, pathlib.Path]]) -> None:
    for split, files in found.items():
        images = read_idx(files["images"])
        if images.ndim not in (3, 4):
            raise ValueError(
                f"IDX file {files['images']} has shape {list(images.shape)}; images are [N, H, W(, C)]"
            )
        labels = read_idx(files["labels"]) if "labels" in files else None
        if labels is not None and labels.shape != (len(images),):
            raise ValueError(
                f"IDX file {files['labels']} has shape {list(labels.shape)}, but there are "
                f"{len(images)} images"
            )
        _add_blocks(writer, images, labels, split)


def find_npy(spec: str, path: pathlib.Path) -> Source:
    """Find an `.npy` file, or `train.npy` (`validation.npy`, `test.npy`, `..._labels.npy`) in a folder."""
    if path.is_file():
        files = {"train": path}
    else:
        files = {split: path / f"{split}.npy" for split in SPLITS if (path / f"{split}.npy").is_file()}
    if "train" not in files:
        raise ValueError(
            f"data source {spec!r}: no train.npy in {path}; expected train.npy, or one .npy file"
        )
    labels = {split: file.with_name(f"{file.stem}_labels.npy") for split, file in files.items()}
    labels = {split: file for split, file in labels.items() if file.is_file()}
    if labels and len(labels) != len(files):
        missing = ", ".join(sorted(set(files) - set(labels)))
        raise ValueError(f"data source {spec!r}: labels files for some splits, none for {missing}")
    fingerprint = json.dumps(["npy", [stamp(file) for file in [*files.values(), *labels.values()]]])
    return Source(spec, fingerprint, lambda writer: _write_npy(writer, files, labels))


def _load_npy(path: pathlib.Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # Python's own parser reads the file's head
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"npy file {path} cannot be read: {words}") from error


def _write_npy(writer: BankWriter, files: dict[str, pathlib.Path], labels: dict[str, pathlib.Path]) -> None:
    for split, path in files.items():
        images = _load_npy(path)
        if not isinstance(images, np.ndarray) or images.ndim not in (3, 4):
            raise ValueError(f"npy file {path} must hold [N, H, W] or [N, H, W, C], got {np.shape(images)}")
        if images.dtype not in (np.uint8, np.bool_) and images.dtype.kind != "f":
            raise ValueError(f"npy file {path} must hold uint8, bool, or float in [0, 1], got {images.dtype}")
        number = _load_npy(labels[split]) if split in labels else None
        if number is not None and (number.shape != (len(images),) or number.dtype.kind not in "iu"):
            raise ValueError(f"npy file {labels[split]} must hold {len(images)} integers, one for each image")
        if images.dtype.kind == "f":
            writer.note(path.name, "note", f"{images.dtype} rounded to 8 bits")
        _add_blocks(writer, images, number, split, str(path))


def _add_blocks(
    writer: BankWriter, images: np.ndarray, labels: np.ndarray | None, split: str, name: str = ""
) -> None:
    images = images if images.ndim == 4 else images[..., None]
    official = None if split == "train" else split
    for first in writer.track(range(0, len(images), _BLOCK), -(-len(images) // _BLOCK)):
        block = slice(first, first + _BLOCK)
        numbers = None if labels is None else labels[block].tolist()
        writer.add(_as_uint8(images[block], name), split=official, labels=numbers)


def _as_uint8(images: np.ndarray, name: str) -> np.ndarray:
    if images.dtype == np.uint8:
        return np.asarray(images)
    if images.dtype == np.bool_:
        return np.asarray(images, np.uint8) * np.uint8(255)
    low, high = float(images.min(initial=0)), float(images.max(initial=0))
    if not (low >= 0 and high <= 1):  # so that NaN fails too
        raise ValueError(
            f"npy file {name}: float images must lie in [0, 1], got values in [{low:g}, {high:g}]"
        )
    return np.asarray(np.rint(images.astype(np.float64) * 255), np.uint8)
