"""PyTorch's checkpoint files without PyTorch, and without running anything that they name.

Both formats: the zip archive (since 1.6) and the pickles in a row before it, in which ESRGAN's and EDSR's
authors published. Only what builds arrays out of stored numbers is understood, see `pickles`; every other
name in a file is an error.
"""

import functools
import io
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vaesr.pretrained import pickles
from vaesr.pretrained.pickles import Budget, Function, is_count, is_shape

# The pickle of 0x1950A86A20F9469CFC6C, with which every file begins.
_BEGINNING = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
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
_MOST_WRAPPERS = 8


class _Storage:
    """Numbers in a row, of which tensors are views; in the old format they come after the tensors."""

    def __init__(self, kind: np.dtype, count: int) -> None:
        self.kind, self.count = kind, count
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

    def read(self, budget: Budget) -> np.ndarray:
        numbers = self.storage.numbers
        if numbers is None:
            raise ValueError("the file ends before the numbers of a tensor")
        if 0 in self.size:
            return np.zeros(self.size, numbers.dtype)  # a ValueError where NumPy has no such shape
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if last >= len(numbers):
            raise ValueError(f"a tensor reaches to number {last} of a storage of {len(numbers)}")
        budget.spend(math.prod(self.size) * numbers.itemsize)
        # The step along an axis of one number is never taken, and may be anything.
        steps = [step if n > 1 else 0 for n, step in zip(self.size, self.stride, strict=True)]
        strides = [step * numbers.itemsize for step in steps]
        view = np.lib.stride_tricks.as_strided(numbers[self.offset :], self.size, strides, writeable=False)
        return view.copy()


def _rebuild_tensor(storage: Any, offset: Any = 0, size: Any = (), stride: Any = (), *_: Any) -> _View:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor is made of something that is no storage")
    if not (is_count(offset) and is_shape(size) and is_shape(stride)):
        raise ValueError("a tensor has a size, stride or offset that is no count")
    if len(size) != len(stride):
        raise ValueError(f"a tensor has sizes {size} and strides {stride}")
    return _View(storage, offset, size, stride)


def _size(numbers: Any = ()) -> tuple[int, ...]:
    if not is_shape(numbers):
        raise ValueError("it has a size that is no tuple of counts")
    return numbers


Storages = Callable[[np.dtype, str, int], _Storage]


def _storage_of(storages: Storages, pid: Any) -> _Storage:
    """The storage that a pickle refers to, by (type, key, device, count) after a word."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] not in ("storage", b"storage"):
        raise ValueError("the pickle refers to something that is no storage")
    _, kind, key, _, count, *view = pid
    if view and view[0] is not None:
        raise ValueError("the file has views of storages, as PyTorch before 0.4 wrote them")
    if not isinstance(kind, np.dtype) or not isinstance(key, str | bytes) or not is_count(count):
        raise ValueError("a storage has a type, name or size that is none")
    return storages(kind, key if isinstance(key, str) else key.decode("latin-1"), count)


def _names(budget: Budget) -> dict[str, Any]:
    """What tensors are made with, by dotted name."""
    return {
        **pickles.numpy_names(budget),
        **{f"torch.{name}": np.dtype(kind) for name, kind in {**_TYPES, **_DTYPES}.items()},
        "torch.Size": Function(_size),
        "torch._utils._rebuild_tensor": Function(_rebuild_tensor),
        "torch._utils._rebuild_tensor_v2": Function(_rebuild_tensor),
        "torch._utils._rebuild_parameter": Function(lambda data, *_: data),
    }


def read_torch(content: bytes) -> Any:
    """Reads what `torch.save` wrote, with a NumPy array in place of each tensor.

    ValueError if it is TorchScript, is broken, names anything but tensors (nothing of it is run), or would
    make more than eight times its own size.
    """
    budget = Budget(len(content))
    tree = (_read_zip if content[:4] == b"PK\x03\x04" else _read_legacy)(content, budget)
    return pickles.plain(tree, functools.partial(_leaf, budget))


def _leaf(budget: Budget, value: Any) -> Any:
    return value.read(budget) if isinstance(value, _View) else pickles.array(value)


def _read_zip(content: bytes, budget: Budget) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = set(archive.namelist())
        roots = [name[: -len("data.pkl")] for name in names if name.endswith("data.pkl")]
        if len(roots) != 1:
            raise ValueError("the archive holds no data.pkl, so it is no PyTorch checkpoint")
        root = roots[0]
        if any(name.startswith(f"{root}code/") for name in names):
            raise ValueError("it is a TorchScript program, not a checkpoint; save its state_dict() instead")

        def read(name: str) -> bytes:
            member = archive.getinfo(name)
            # Checked before it is read: a small archive can claim to hold terabytes of zeros.
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(content):
                raise ValueError(f"its member {name[:100]} is compressed, which PyTorch never does")
            budget.spend(member.file_size)  # members may overlap
            return archive.read(member)

        if f"{root}byteorder" in names and read(f"{root}byteorder") != b"little":
            raise ValueError("it was written by a big-endian machine")
        found: dict[str, _Storage] = {}

        def storage(kind: np.dtype, key: str, count: int) -> _Storage:
            if key not in found:
                if f"{root}data/{key}" not in names:
                    raise ValueError(f"storage {key[:100]} is missing")
                made = _Storage(kind, count)
                size = archive.getinfo(f"{root}data/{key}").file_size
                if size != count * kind.itemsize:
                    raise ValueError(f"storage {key} has {size} bytes, not those of {count} numbers")
                made.fill(read(f"{root}data/{key}"))
                found[key] = made
            return found[key]

        stream = io.BytesIO(read(f"{root}data.pkl"))
        return pickles.load(stream, _names(budget), functools.partial(_storage_of, storage))


def _read_legacy(content: bytes, budget: Budget) -> Any:
    stream, names = io.BytesIO(content), _names(budget)
    found: dict[str, _Storage] = {}

    def storage(kind: np.dtype, key: str, count: int) -> _Storage:
        if count * kind.itemsize > len(content):
            raise ValueError(f"storage {key} claims {count} numbers, more than the file has")
        return found.setdefault(key, _Storage(kind, count))

    def load() -> Any:
        return pickles.load(stream, names, functools.partial(_storage_of, storage))

    if not content.startswith(_BEGINNING):
        raise ValueError("it does not begin as a PyTorch checkpoint does")
    load()
    version, _, tree, keys = load(), load(), load(), load()
    if version != 1001:
        raise ValueError("it has another protocol than 1001")
    if not isinstance(keys, list | tuple):
        raise ValueError("it has no list of storages")
    for key in keys:
        head = stream.read(8)
        if len(head) != 8:
            raise ValueError("the file ends before all its numbers")
        (count,) = struct.unpack("<q", head)
        kept = found.get(key) if isinstance(key, str) else None
        if kept is None or count != kept.count or kept.numbers is not None:
            raise ValueError(f"a storage has {count} numbers, the tensors expect another count")
        kept.fill(stream.read(count * kept.kind.itemsize))
    return tree


def unwrap_state(tree: Any) -> dict[str, np.ndarray]:
    """Finds the state dict in the nested dictionaries of a checkpoint, see `read_torch`.

    Arrays by dotted name, without the prefixes that wrappers of modules add. ValueError if there is none.
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
    for _ in range(_MOST_WRAPPERS):
        for prefix in _PREFIXES:
            if all(key.startswith(prefix) for key in state):
                state = {key[len(prefix) :]: array for key, array in state.items()}
                break
        else:
            break
    return state


def write_torch(state: Mapping[str, np.ndarray], *, name: str = "") -> bytes:
    """Gives a state dict as the content of a file that `torch.load(..., weights_only=True)` reads.

    The bytes are the same for the same arrays. `name` is of the dictionary around them, such as "params_ema";
    none puts them at the top. ValueError if an array's type is none that PyTorch has.
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
