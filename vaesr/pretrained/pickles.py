"""Pickles read as plain data: nothing that they name is imported, called or changed.

`pickle.Unpickler` runs a program that the file's author wrote. A filter of names does not tame it: with those
of NumPy's own arrays alone a program can build an array of pointers. Here the program's instructions are
interpreted over numbers, text, bytes, lists, tuples and dictionaries; the few names that files of arrays need
stand for small functions of this file, which make arrays of numbers out of the file's own bytes. Time and
memory are bounded by the size of the file.
"""

import dataclasses
import io
import math
import pickletools
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

# What is made of a file's content may be so many times as large: views may share numbers, but not endlessly.
_GROWTH = 8
_SPARE = 1 << 20
# Some seconds; the largest of the published checkpoints has a tenth of a million.
_MOST_INSTRUCTIONS = _MOST_ITEMS = 1_000_000
_DEEPEST = 100
_LONGEST_KEY = 1000  # names of arrays are joined of those on the way
_MOST_AXES = 64
# NumPy's numbers by the letters that its pickles have.
_NUMBERS = {
    **{f"{kind}{size}": np.dtype(f"<{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)},
    **{f"f{size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    "b1": np.dtype(bool),
}
_MARK = object()


class Budget:
    """Bytes that may still be made out of a file.

    Attributes:
        left: how many.
    """

    def __init__(self, size: int) -> None:
        self.left = _GROWTH * size + _SPARE

    def spend(self, count: int) -> None:
        """Take away; ValueError when all is spent."""
        self.left -= count
        if self.left < 0:
            raise ValueError(f"it would grow to more than {_GROWTH} times its size")


@dataclasses.dataclass(frozen=True)
class Function:
    """What a name stands for that a pickle may call: it gets plain data, and checks it."""

    call: Callable[..., Any]


class Buildable:
    """What a pickle may give a state to after it was made."""

    def build(self, state: Any) -> None:
        """Take the state in."""
        raise NotImplementedError


class Kind(Buildable):
    """A type of NumPy's numbers."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or name not in _NUMBERS:
            raise ValueError("it has arrays of something else than numbers")
        self.dtype = _NUMBERS[name]

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
            raise ValueError("its numbers are in an order of bytes other than this machine's")


class Array(Buildable):
    """An array of NumPy's: its shape, type and bytes come as its state."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.value: np.ndarray | None = None

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or self.value is not None:
            raise ValueError("an array has a state that is none")
        _, shape, kind, fortran, content = state
        content = _as_bytes(content, self.budget)
        if not isinstance(kind, Kind) or not isinstance(content, bytes) or not is_shape(shape):
            raise ValueError("an array has a shape, type or content that is none")
        if math.prod(shape) * kind.dtype.itemsize != len(content):
            raise ValueError(f"an array has {len(content)} bytes, which don't fill its shape")
        # A view of the file's bytes: the same bytes may be named many times.
        flat = np.frombuffer(content, kind.dtype)
        self.value = flat.reshape(shape, order="F" if fortran else "C")


def array(value: Any) -> Any:
    """What a maker of arrays stands for, where a tree is read: its array, or its type."""
    if isinstance(value, Array):
        if value.value is None:
            raise ValueError("an array has no content")
        return value.value
    return value.dtype if isinstance(value, Kind) else value


def is_shape(value: Any) -> bool:
    """Whether this is a tuple of counts, of no more axes than arrays have."""
    return isinstance(value, tuple) and len(value) <= _MOST_AXES and all(map(is_count, value))


def is_count(value: Any) -> bool:
    """Whether this is an integer from 0 that fits 63 bits."""
    return isinstance(value, int) and 0 <= value < 1 << 63


def _as_bytes(value: Any, budget: Budget) -> Any:
    """Bytes, of which Python 2 and protocol 2 make text."""
    if not isinstance(value, str):
        return value
    budget.spend(len(value))
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError("it has bytes that are none") from None


def numpy_names(budget: Budget) -> dict[str, Any]:
    """What arrays and numbers of NumPy and the containers of Python are made with, by dotted name."""

    def scalar(kind: Any, content: Any = b"") -> Any:
        content = _as_bytes(content, budget)
        if not isinstance(kind, Kind) or not isinstance(content, bytes):
            raise ValueError("a number has a type or content that is none")
        if len(content) != kind.dtype.itemsize:
            raise ValueError(f"a number of {kind.dtype.itemsize} bytes has {len(content)}")
        return np.frombuffer(content, kind.dtype)[0].item()

    def encode(text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise ValueError("it has bytes that are none")
        return _as_bytes(text, budget)

    def dictionary(pairs: Any = ()) -> dict[Any, Any]:
        if not isinstance(pairs, list | tuple):
            raise ValueError("a dictionary is made of something that is no pairs")
        budget.spend(8 * len(pairs))
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise ValueError("a dictionary is made of something that is no pairs")
        return {_key(key): value for key, value in pairs}

    made = {"_reconstruct": Function(lambda *_: Array(budget)), "scalar": Function(scalar)}
    return {
        **{
            f"{room}.{n}": f
            for room in ("numpy.core.multiarray", "numpy._core.multiarray")
            for n, f in made.items()
        },
        "numpy.ndarray": None,  # `_reconstruct` is told what to make
        "numpy.dtype": Function(Kind),
        "_codecs.encode": Function(encode),
        "collections.OrderedDict": Function(dictionary),
        "collections.defaultdict": Function(lambda *_: {}),
    }


def _key(key: Any) -> Any:
    """Keys whose hash costs nothing: that of nested tuples may take for ever."""
    if isinstance(key, str | bytes) and len(key) > _LONGEST_KEY:
        raise ValueError(f"a dictionary has a key of {len(key)} letters")
    if key is None or isinstance(key, str | bytes | float) or (isinstance(key, int) and abs(key) < 1 << 63):
        return key
    raise ValueError("a dictionary has keys that are no names or numbers")


def load(stream: io.BytesIO, names: Mapping[str, Any], persistent: Callable[[Any], Any] | None = None) -> Any:
    """Read the pickle at the stream's position, up to its end.

    `names` holds what each dotted name stands for, a `Function` where it may be called; `persistent` gives
    what a reference to something outside the pickle stands for. ValueError for every other name, for broken
    pickles, and for instructions that data does not need.
    """
    machine = _Machine(names, persistent)
    for count, (name, argument) in enumerate(_instructions(stream)):
        if count > _MOST_INSTRUCTIONS:
            raise ValueError(f"its pickle has more than {_MOST_INSTRUCTIONS} instructions")
        try:
            machine.run(name, argument)
        except (IndexError, KeyError, TypeError) as error:
            raise ValueError("its pickle is broken") from error
    return machine.result()


def _instructions(stream: io.BytesIO) -> Iterator[tuple[str, Any]]:
    try:
        for code, argument, _ in pickletools.genops(stream):
            yield code.name, argument
    # A warning, too, where Python is told to raise it: of text with an escape that is none.
    except (ValueError, struct.error, OverflowError, Warning) as error:
        raise ValueError(f"its pickle is broken: {str(error)[:100]}") from error


class _Machine:
    """A stack of plain data, and the values that the pickle refers to again."""

    def __init__(self, names: Mapping[str, Any], persistent: Callable[[Any], Any] | None) -> None:
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.memo: dict[Any, Any] = {}

    def result(self) -> Any:
        if len(self.stack) != 1 or self.stack[0] is _MARK:
            raise ValueError("its pickle is broken")
        return self.stack[0]

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("its pickle is broken")
        return value

    def items(self) -> list[Any]:
        """Everything above the last mark."""
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                found = self.stack[place + 1 :]
                del self.stack[place:]
                return found
        raise ValueError("its pickle is broken")

    def run(self, name: str, argument: Any) -> None:
        push = self.stack.append
        if name in _LITERALS:
            push(argument)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in _FRESH:
            push(_FRESH[name]())
        elif name in ("STRING", "BINSTRING", "SHORT_BINSTRING"):
            # Text of Python 2, or bytes: what is no UTF-8 stays letter by letter.
            raw = argument.encode("latin-1")
            try:
                push(raw.decode())
            except UnicodeDecodeError:
                push(argument)
        elif name == "MARK":
            push(_MARK)
        elif name in ("PROTO", "FRAME", "STOP"):
            pass
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[-1])
            parts = [self.pop() for _ in range(size)]
            push(tuple(reversed(parts)))
        elif name in ("TUPLE", "LIST"):
            found = self.items()
            push(tuple(found) if name == "TUPLE" else found)
        elif name == "DICT":
            push(dict(_pairs(self.items())))
        elif name == "APPEND":
            value = self.pop()
            _only(list, self.stack[-1]).append(value)
        elif name == "APPENDS":
            found = self.items()
            _only(list, self.stack[-1]).extend(found)
        elif name == "SETITEM":
            value, key = self.pop(), self.pop()
            _only(dict, self.stack[-1])[_key(key)] = value
        elif name == "SETITEMS":
            found = self.items()
            _only(dict, self.stack[-1]).update(_pairs(found))
        elif name == "POP":
            self.stack.pop()
        elif name == "POP_MARK":
            self.items()
        elif name == "DUP":
            value = self.pop()
            self.stack += [value, value]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self._top()
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self._top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            push(self.memo[argument])
        elif name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
            push(self._named(module, attribute))
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            push(self._named(_only(str, module), _only(str, attribute)))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = _only(tuple, self.pop()), self.pop()
            if not isinstance(function, Function):
                raise ValueError("it calls something that is no maker of arrays; nothing was run")
            push(function.call(*arguments))
        elif name == "BUILD":
            state, target = self.pop(), self._top()
            if isinstance(target, Buildable):
                target.build(state)
            elif not isinstance(target, dict) or not isinstance(state, dict):
                raise ValueError("it changes something that is no array; nothing was run")
        elif name == "BINPERSID" and self.persistent is not None:
            push(self.persistent(self.pop()))
        else:
            raise ValueError(
                f"its pickle has the instruction {name}, which data doesn't need; nothing was run"
            )

    def _top(self) -> Any:
        if self.stack[-1] is _MARK:
            raise ValueError("its pickle is broken")
        return self.stack[-1]

    def _named(self, module: str, attribute: str) -> Any:
        name = f"{module}.{attribute}"
        if name not in self.names:
            raise ValueError(f"it names {name[:100]}, which arrays don't need; nothing was run")
        return self.names[name]


def _only(kind: Any, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError("its pickle is broken")
    return value


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    if len(values) % 2:
        raise ValueError("its pickle is broken")
    return [(_key(key), value) for key, value in zip(values[::2], values[1::2], strict=True)]


_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_FRESH: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}


def plain(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same tree with `leaf(value)` in place of whatever is no container; lists in place of tuples.

    What occurs many times is converted once. ValueError for a tree that holds itself, is very deep, or in
    which few containers that are named again and again stand for very many.
    """
    done: dict[int, tuple[Any, int]] = {}
    open_now: set[int] = set()

    def convert(value: Any, depth: int) -> tuple[Any, int]:
        place = id(value)
        if place in done:
            return done[place]
        if not isinstance(value, dict | list | tuple):
            done[place] = leaf(value), 1
            return done[place]
        if depth > _DEEPEST or place in open_now:
            raise ValueError(f"it is nested deeper than {_DEEPEST} levels, or holds itself")
        open_now.add(place)
        inner = [convert(item, depth + 1) for item in (value.values() if isinstance(value, dict) else value)]
        items = 1 + sum(count for _, count in inner)
        if items > _MOST_ITEMS:
            raise ValueError(f"it unfolds to more than {_MOST_ITEMS} items")
        found = [item for item, _ in inner]
        open_now.discard(place)
        done[place] = (dict(zip(value, found, strict=True)) if isinstance(value, dict) else found), items
        return done[place]

    return convert(tree, 0)[0]
