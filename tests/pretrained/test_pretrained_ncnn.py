"""ncnn's files: what is written by hand is read back; broken and foreign ones are named."""

import struct

import numpy as np
import pytest

from vaesr.pretrained.ncnn import read_ncnn

FP16 = struct.pack("<I", 0x01306B47)


def files(layers, half=True):
    """`.param` and `.bin` of a chain of convolutions (`(kernel, bias)`) and PReLUs (`slopes`)."""
    lines, content = ["Input in 0 1 data"], b""
    for i, layer in enumerate(layers):
        blobs = f"{'data' if i == 0 else i} {i + 1}"
        if isinstance(layer, tuple):
            kernel, bias = layer
            outputs, _, side, _ = kernel.shape
            lines.append(
                f"Convolution c{i} 1 1 {blobs} 0={outputs} 1={side} 4=1 5=1 6={kernel.size} -23310=1,2.0e-01"
            )
            numbers = kernel.astype(np.float16 if half else np.float32).tobytes()
            content += (FP16 if half else bytes(4)) + numbers + bytes(-len(numbers) % 4)
            content += bias.astype(np.float32).tobytes()
        else:
            lines.append(f"PReLU p{i} 1 1 {blobs} 0={layer.size}")
            content += layer.astype(np.float32).tobytes()
    text = "\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines, ""])
    return text.encode(), content


def conv(rng, outputs, inputs):
    kernel = rng.standard_normal((outputs, inputs, 3, 3)).astype(np.float16).astype(np.float32)
    return kernel, rng.standard_normal(outputs).astype(np.float32)


def srvgg(rng):
    return [conv(rng, 5, 3), rng.random(5), conv(rng, 5, 5), rng.random(5), conv(rng, 12, 5)]


@pytest.mark.parametrize("half", [True, False])
def test_srvgg_is_read_in_order(half):
    layers = srvgg(np.random.default_rng(0))
    state = read_ncnn(*files(layers, half), name="x")
    assert len(state) == 8
    for i, layer in enumerate(layers):
        if isinstance(layer, tuple):
            np.testing.assert_array_equal(state[f"body.{i}.weight"], layer[0])
            np.testing.assert_array_equal(state[f"body.{i}.bias"], layer[1])
        else:
            np.testing.assert_allclose(state[f"body.{i}.weight"], layer, rtol=1e-7)


def test_rrdb_is_read_in_order():
    rng = np.random.default_rng(0)
    layers = [conv(rng, 4, 3)]
    layers += [conv(rng, 4 if k == 4 else 2, 4 + 2 * k) for _ in range(6) for k in range(5)]
    layers += [conv(rng, 4, 4) for _ in range(4)] + [conv(rng, 3, 4)]
    state = read_ncnn(*files(layers), name="x")
    assert len(state) == 2 * len(layers)
    places = {
        "conv_first": 0, "body.0.rdb1.conv1": 1, "body.0.rdb3.conv5": 15, "body.1.rdb1.conv1": 16,
        "conv_body": 31, "conv_up1": 32, "conv_up2": 33, "conv_hr": 34, "conv_last": 35,
    }  # fmt: skip
    for name, place in places.items():
        np.testing.assert_array_equal(state[f"{name}.weight"], layers[place][0])


def test_broken_files_are_named():
    text, content = files(srvgg(np.random.default_rng(0)))
    for broken, words in (
        ((b"PK" + text, content), "must begin with 7767517"),
        ((text, content[:-4]), "ends before the weights"),
        ((text, content[:2]), "ends before the weights"),
        ((text, content + bytes(8)), "8 bytes more"),
        ((text.rsplit(b"\n", 2)[0], content), "announces 6 layers and has 5"),
        ((text.replace(b"PReLU", b"LSTM"), content), "kinds LSTM"),
        ((text.replace(b"5=1", b"5=0"), content), "no square convolution with a bias"),
        ((text.replace(b"0=5", b"0=x"), content), "no ncnn layer"),
        ((text, struct.pack("<I", 0x000D4B38) + content[4:]), "quantised"),
        (files(srvgg(np.random.default_rng(0))[:2]), "1 convolutions and 1 PReLUs"),
        (files([conv(np.random.default_rng(0), 3, 3)] * 9), "9 convolutions: no RRDBNet"),
    ):
        with pytest.raises(ValueError, match=words):
            read_ncnn(*broken, name="x.param")
