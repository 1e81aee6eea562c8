"""PyTorch's checkpoint files without PyTorch, and without running anything that they name.

Both formats: the zip archive (since 1.6) and the pickles in a row before it, in which ESRGAN's and EDSR's
authors published. Only what builds arrays out of stored numbers is understood; every other name in a file is
an error.
"""

import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES: dict[str, Any] = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
}  # fmt: skip
_DTYPES: dict[str, Any] = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": jnp.bfloat16,
    "int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8, "uint8": np.uint8,
    "bool": np.bool_,
}  # fmt: skip
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}
# Where checkpoints keep their state dict, the best first.
_WRAPPERS = (
    "params_ema", "params-ema", "params", "model_state_dict", "state_dict", "model", "net", "generator",
)  # fmt: skip
_PREFIXES = ("module.", "netG.", "generator.")
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")


class _Storage:
    """Numbers in a row, of which tensors are views; in the old format they come after the tensors."""

    def __init__(self, kind: Any, count: int) -> None:
        self.kind, self.count = np.dtype(kind), count
        self.numbers: np.ndarray | None = None

    def fill(self, content: bytes) -> None:
        wanted = self.count * self.kind.itemsize
        if len(content) != wanted:
            raise ValueError(f"a storage of {self.count} {self.kind} has {len(content)} bytes, not {wanted}")
        self.numbers = np.frombuffer(content, self.kind.newbyteorder("<")).astype(self.kind)


class _View:
    """A tensor: a view of a storage that may not have been read yet."""

    def __init__(
        self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def read(self) -> np.ndarray:
        numbers = self.storage.numbers
        if numbers is None:
            raise ValueError("the file ends before the numbers of a tensor")
        if not all(isinstance(n, int) and n >= 0 for n in (self.offset, *self.size, *self.stride)):
            raise ValueError("a tensor has a size, stride or offset that is no count")
        if len(self.size) != len(self.stride):
            raise ValueError(f"a tensor has sizes {self.size} and strides {self.stride}")
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if 0 in self.size:
            return np.zeros(self.size, numbers.dtype)
        if last >= len(numbers):
            raise ValueError(f"a tensor reaches to number {last} of a storage of {len(numbers)}")
        strides = [step * numbers.itemsize for step in self.stride]
        view = np.lib.stride_tricks.as_strided(numbers[self.offset :], self.size, strides, writeable=False)
        return view.copy()


def _rebuild_tensor(storage: Any, offset: Any = 0, size: Any = (), stride: Any = (), *_: Any) -> _View:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor is made of something that is no storage")
    return _View(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _scalar(kind: Any, content: bytes = b"") -> Any:
    return np.frombuffer(content, np.dtype(kind))[0] if content else None


class _Tensors(pickle.Unpickler):
    """Understands tensors in dictionaries, lists and tuples; refuses every other name."""

    def __init__(self, content: io.BytesIO, storages: Any) -> None:
        super().__init__(content, encoding="utf-8")
        self.storages = storages

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] not in ("storage", b"storage"):
            raise ValueError(f"the pickle refers to {str(pid)[:60]}, which is no storage")
        _, kind, key, _, count, *view = pid
        if view and view[0] is not None:
            raise ValueError("the file has views of storages, as PyTorch before 0.4 wrote them")
        return self.storages(kind, str(key), int(count))

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("collections", "defaultdict"): lambda *_: {},
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
            ("numpy", "dtype"): np.dtype,
            **{(module, "scalar"): _scalar for module in _NUMPY},
        }
        if (module, name) not in known:
            raise ValueError(f"it names {module}.{name}, which tensors don't need; nothing was run")
        return known[module, name]


def read_torch(content: bytes) -> Any:
    """Reads what `torch.save` wrote.

    Args:
        content: the file's bytes.

    Returns:
        What was saved, with a NumPy array in place of each tensor.

    Raises:
        ValueError: if it is TorchScript, is broken, or names anything but tensors; nothing of it is run.
    """
    if content[:4] == b"PK\x03\x04":
        return _arrays(_read_zip(content))
    return _arrays(_read_legacy(content))


def _read_zip(content: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        roots = [name[: -len("data.pkl")] for name in names if name.endswith("data.pkl")]
        if len(roots) != 1:
            raise ValueError("the archive holds no data.pkl, so it is no PyTorch checkpoint")
        root = roots[0]
        if any(name.startswith(f"{root}code/") for name in names):
            raise ValueError("it is a TorchScript program, not a checkpoint; save its state_dict() instead")
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
        if order != b"little":
            raise ValueError("it was written by a big-endian machine")
        found: dict[str, _Storage] = {}

        def storage(kind: Any, key: str, count: int) -> _Storage:
            if key not in found:
                made = _Storage(kind, count)
                member = archive.getinfo(f"{root}data/{key}")
                # Checked before it is read: a small archive can claim to hold terabytes of zeros.
                if member.file_size != count * made.kind.itemsize:
                    raise ValueError(
                        f"storage {key} has {member.file_size} bytes, not those of {count} numbers"
                    )
                if member.file_size > len(content):
                    raise ValueError(f"storage {key} is compressed, which PyTorch never does")
                made.fill(archive.read(member))
                found[key] = made
            return found[key]

        return _Tensors(io.BytesIO(archive.read(f"{root}data.pkl")), storage).load()


def _read_legacy(content: bytes) -> Any:
    stream = io.BytesIO(content)
    found: dict[str, _Storage] = {}

    def storage(kind: Any, key: str, count: int) -> _Storage:
        if count < 0 or count * np.dtype(kind).itemsize > len(content):
            raise ValueError(f"storage {key} claims {count} numbers, more than the file has")
        return found.setdefault(key, _Storage(kind, count))

    def load() -> Any:
        return _Tensors(stream, storage).load()

    try:
        magic = load()
    except pickle.UnpicklingError:
        magic = None
    if magic != _MAGIC:
        raise ValueError("it does not begin as a PyTorch checkpoint does")
    version, _, tree, keys = load(), load(), load(), load()
    if version != 1001:
        raise ValueError(f"it has the protocol {version}; known is 1001")
    for key in keys:
        head = stream.read(8)
        if len(head) != 8:
            raise ValueError("the file ends before all its numbers")
        (count,) = struct.unpack("<q", head)
        kept = found.get(str(key))
        if kept is None or count != kept.count:
            raise ValueError(f"storage {key} has {count} numbers, the tensors expect another count")
        kept.fill(stream.read(count * kept.kind.itemsize))
    return tree


def _arrays(tree: Any) -> Any:
    if isinstance(tree, _View):
        return tree.read()
    if isinstance(tree, Mapping):
        return {key: _arrays(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_arrays(value) for value in tree]
    return tree


def unwrap_state(tree: Any) -> dict[str, np.ndarray]:
    """Finds the state dict in what a checkpoint holds.

    Args:
        tree: nested dictionaries, see `read_torch`.

    Returns:
        Arrays by dotted name, without the prefixes that wrappers of modules add.

    Raises:
        ValueError: if there is none.
    """
    while isinstance(tree, dict):
        arrays = {k: v for k, v in tree.items() if isinstance(v, np.ndarray) and isinstance(k, str)}
        inner = [tree[name] for name in _WRAPPERS if isinstance(tree.get(name), dict)]
        if inner:
            tree = inner[0]
        elif arrays:
            return _without_prefix(arrays)
        elif len(tree) == 1:
            tree = next(iter(tree.values()))
        else:
            break
    raise ValueError("it holds no state dict: save the network's state_dict()")


def _without_prefix(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            return _without_prefix({key[len(prefix) :]: array for key, array in state.items()})
    return state


def write_torch(state: Mapping[str, np.ndarray], *, name: str = "") -> bytes:
    """Gives a state dict as the content of a file that `torch.load(..., weights_only=True)` reads.

    Args:
        state: arrays by name.
        name: of the dictionary around them, such as "params_ema"; none puts them at the top.

    Returns:
        The file's bytes; the same for the same arrays.

    Raises:
        ValueError: if an array's type is none that PyTorch has.
    """
    pickled = io.BytesIO()
    storages: list[bytes] = []
    put = pickled.write

    def text(word: str) -> None:
        encoded = word.encode()
        put(b"X" + struct.pack("<I", len(encoded)) + encoded)

    def number(value: int) -> None:
        if value < 2**31:
            put(b"J" + struct.pack("<i", value))
        else:
            digits = value.to_bytes(8, "little", signed=True)
            put(b"\x8a" + bytes([len(digits)]) + digits)

    def numbers(values: tuple[int, ...]) -> None:
        put(b"(")
        for value in values:
            number(value)
        put(b"t")

    put(b"\x80\x02")
    if name:
        put(b"}(")
        text(name)
    put(b"ccollections\nOrderedDict\n)R(")
    for key, array in state.items():
        array = np.asarray(array)
        kind = _NAMES.get(array.dtype)
        if kind is None:
            raise ValueError(f"{key} has the type {array.dtype}, which PyTorch does not have")
        strides = tuple(int(np.prod(array.shape[i + 1 :], dtype=np.int64)) for i in range(array.ndim))
        text(key)
        put(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        text("storage")
        put(f"ctorch\n{kind}\n".encode())
        text(str(len(storages)))
        text("cpu")
        number(array.size)
        put(b"tQ")
        number(0)
        numbers(array.shape)
        numbers(strides)
        put(b"\x89ccollections\nOrderedDict\n)RtR")
        storages.append(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
    put(b"uu." if name else b"u.")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        parts = [("data.pkl", pickled.getvalue()), ("byteorder", b"little")]
        parts += [(f"data/{i}", content) for i, content in enumerate(storages)]
        for part, content in [*parts, ("version", b"3\n")]:
            archive.writestr(zipfile.ZipInfo(f"archive/{part}"), content)
    return buffer.getvalue()
