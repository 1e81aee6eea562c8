"""Archives of arrays: numpy's own, damaged ones and bombs."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from vaesr.files import read_npz


def archive(how=zipfile.ZIP_DEFLATED, **members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def array(shape, content=b"", kind="<f4"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


@pytest.mark.parametrize("save", (np.savez, np.savez_compressed))
def test_what_numpy_writes(tmp_path, save):
    wanted = {
        "a": np.arange(12.0).reshape(3, 4),
        "b": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "c": np.array("word"),
        "d": np.zeros((0, 3), np.uint8),
        "e": np.array(["one", "three"]),
    }
    save(tmp_path / "x.npz", **wanted)
    for source in (tmp_path / "x.npz", (tmp_path / "x.npz").read_bytes()):
        found = read_npz(source)
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            np.testing.assert_array_equal(found[name], value)
            assert found[name].dtype == value.dtype


@pytest.mark.parametrize(
    "content, message",
    (
        (b"", "no archive"),
        (b"no zip", "no archive"),
        (archive(), "no arrays"),
        (archive(a=b"\x93NUMPY\x01\x00"), None),
        (archive(a=array((10**12,))), "fill its shape"),
        (archive(a=array((2**40, 2**40), bytes(8))), "fill its shape"),
        (archive(a=array((3,), bytes(8))), "fill its shape"),
        (archive(a=array((-3,), bytes(8))), None),
        (archive(a=array((1,), bytes(8), "|O")), "fill its shape"),
        (archive(a=array((2**26,), bytes(2**28))), "more than 64 times"),
        (archive(a=array((2,), bytes(8)))[:-30], "no archive"),
    ),
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_what_is_no_archive_is_refused_and_stays_small(content, message):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            read_npz(content)
        assert tracemalloc.get_traced_memory()[1] < 80 * len(content) + 2**24
    finally:
        tracemalloc.stop()


def test_a_flipped_byte_is_noticed(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=np.random.default_rng(0).random(1000))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[2000] ^= 0xFF
    with pytest.raises(ValueError, match="no archive"):
        read_npz(bytes(content))
