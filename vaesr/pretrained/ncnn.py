"""Weights in ncnn's format (`.param` and `.bin`) as the state dicts they were exported from."""

import struct
from typing import Any, NamedTuple

import numpy as np

MAGIC = "7767517"
"""What a `.param` file begins with."""
_FP16 = 0x01306B47
# Layers without weights that the two known networks consist of.
_SILENT = {"Input", "Split", "Concat", "Eltwise", "BinaryOp", "Interp", "PixelShuffle"}


class _Layer(NamedTuple):
    kind: str
    name: str
    settings: dict[int, Any]


def read_ncnn(text: bytes, weights: bytes, *, name: str) -> dict[str, np.ndarray]:
    """Reads RRDBNet or SRVGGNetCompact as Real-ESRGAN and RealSR publish them for ncnn.

    `text` is the content of the `.param` file, which lists the layers, `weights` of the `.bin` file; `name`
    is for messages. Float32 arrays by BasicSR's names, in PyTorch's layout. ValueError if the files are
    broken, don't belong together, or are of another network.
    """
    layers = _read_param(text, name)
    arrays = _read_bin(layers, weights, name)
    slopes = [a for layer, a in arrays if layer.kind == "PReLU"]
    convs = [a for layer, a in arrays if layer.kind == "Convolution"]
    return _name_srvgg(convs, slopes, name) if slopes else _name_rrdb(convs, name)


def _read_param(text: bytes, path: str) -> list[_Layer]:
    lines = text.decode("utf-8", errors="replace").split("\n")
    if lines[0].strip() != MAGIC:
        raise ValueError(f"{path} is no ncnn text: it must begin with {MAGIC}")
    layers = []
    try:
        count = int(lines[1].split()[0])
        for line in filter(str.strip, lines[2:]):
            kind, name, inputs, outputs, *rest = line.split()
            settings: dict[int, Any] = {}
            for word in rest[int(inputs) + int(outputs) :]:
                key, _, value = word.partition("=")
                # -233xx holds an array: its length, then its values.
                settings[int(key)] = (
                    [float(v) for v in value.split(",")[1:]] if int(key) < 0 else float(value)
                )
            layers.append(_Layer(kind, name, settings))
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path} has a line that is no ncnn layer: {error}") from error
    if len(layers) != count:
        raise ValueError(f"{path} announces {count} layers and has {len(layers)}: it is cut off")
    unknown = sorted({layer.kind for layer in layers} - _SILENT - {"Convolution", "PReLU"})
    if unknown:
        raise ValueError(
            f"{path} has layers of the kinds {', '.join(unknown)}: it is neither RRDBNet nor SRVGGNetCompact"
        )
    return layers


def _read_bin(layers: list[_Layer], content: bytes, path: str) -> list[tuple[_Layer, Any]]:
    place = 0

    def take(count: int, kind: str) -> np.ndarray:
        nonlocal place
        size = count * np.dtype(kind).itemsize
        if place + size > len(content):
            raise ValueError(
                f"{path} ends before the weights of all layers: it is cut off or another network's"
            )
        found = np.frombuffer(content, kind, count, place).astype(np.float32)
        place += -(-size // 4) * 4  # every array begins at a multiple of four bytes
        return found

    arrays: list[tuple[_Layer, Any]] = []
    for layer in layers:
        get = layer.settings.get
        if layer.kind == "PReLU":
            arrays.append((layer, take(int(get(0, 0)), "<f4")))
        if layer.kind != "Convolution":
            continue
        outputs, side, size = int(get(0, 0)), int(get(1, 0)), int(get(6, 0))
        inputs = size // max(1, outputs * side**2)
        if not outputs or inputs * outputs * side**2 != size or not get(5):
            raise ValueError(f"{path}: {layer.name} is no square convolution with a bias")
        flag = struct.unpack_from("<I", content, place)[0] if place + 4 <= len(content) else 0
        place += 4
        if flag not in (0, _FP16):
            raise ValueError(
                f"{path}: {layer.name} is quantised (flag {flag:#x}); known are float32 and float16"
            )
        kernel = take(size, "<f2" if flag else "<f4").reshape(outputs, inputs, side, side)
        arrays.append((layer, (kernel, take(outputs, "<f4"))))
    if place != len(content):
        raise ValueError(
            f"{path} has {len(content) - place} bytes more than the layers: it is another network's"
        )
    return arrays


def _name_srvgg(convs: list[Any], slopes: list[Any], path: str) -> dict[str, np.ndarray]:
    if len(convs) != len(slopes) + 1:
        raise ValueError(f"{path} has {len(convs)} convolutions and {len(slopes)} PReLUs: no SRVGGNetCompact")
    state: dict[str, np.ndarray] = {}
    for i, (kernel, bias) in enumerate(convs):
        state |= {f"body.{2 * i}.weight": kernel, f"body.{2 * i}.bias": bias}
    return state | {f"body.{2 * i + 1}.weight": slope for i, slope in enumerate(slopes)}


def _name_rrdb(convs: list[Any], path: str) -> dict[str, np.ndarray]:
    blocks, rest = divmod(len(convs) - 6, 15)
    if blocks < 1 or rest:
        raise ValueError(f"{path} has {len(convs)} convolutions: no RRDBNet, which has 15 a block and 6")
    names = [f"body.{i}.rdb{j}.conv{k}" for i in range(blocks) for j in (1, 2, 3) for k in range(1, 6)]
    names = ["conv_first", *names, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    state: dict[str, np.ndarray] = {}
    for name, (kernel, bias) in zip(names, convs, strict=True):
        state |= {f"{name}.weight": kernel, f"{name}.bias": bias}
    return state
