"""PyTorch's files without PyTorch: equal to torch's own reading and writing; hostile files run nothing."""

import collections
import io
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from vaesr.pretrained import read_torch, write_torch


def state():
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "conv.bias": rng.standard_normal(4).astype(np.float32),
        "half": rng.standard_normal((2, 5)).astype(np.float16),
        "count": np.array(7),
        "none": np.zeros((0, 3), np.float32),
    }


def save(tree, legacy=False):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    buffer = io.BytesIO()
    torch.save(tree, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["", "params_ema"])
def test_what_is_written_is_read_back_bit_for_bit(name):
    content = write_torch(state(), name=name)
    assert content == write_torch(state(), name=name)
    back = read_torch(content)
    back = back[name] if name else back
    assert list(back) == list(state())
    for key, array in state().items():
        assert back[key].dtype == array.dtype
        np.testing.assert_array_equal(back[key], array)


def test_torch_reads_what_is_written():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    back = torch.load(io.BytesIO(write_torch(state(), name="params")), weights_only=True)["params"]
    assert isinstance(back, collections.OrderedDict)
    for key, array in state().items():
        np.testing.assert_array_equal(back[key].numpy(), array)


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_writes_is_read(legacy):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    base = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    tree = {
        "params": collections.OrderedDict((k, torch.tensor(v)) for k, v in state().items()),
        "views": [base.T, base[1:, ::2], base[2]],
        "parameter": torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16)),
        "iter": 400_000,
        "name": "x",
        "kind": torch.float16,
    }
    found = read_torch(save(tree, legacy))
    for key, array in state().items():
        np.testing.assert_array_equal(found["params"][key], array)
    for ours, theirs in zip(found["views"], tree["views"], strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())
    assert found["parameter"].dtype.name == "bfloat16" and (found["parameter"] == 1).all()
    assert (found["iter"], found["name"], found["kind"]) == (400_000, "x", np.float16)


class Evil:
    """Writes a file when it is unpickled by a reader that calls what it is told to."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.write_text, (pathlib.Path(self.path), "run")


def zipped(pickled, **members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, content in members.items():
            archive.writestr(f"a/{name.replace('_', '/', 1)}", content)
    return buffer.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_runs_nothing(tmp_path, legacy):
    victim = tmp_path / "victim"
    evil = pickle.dumps({"params": Evil(str(victim))}, protocol=2)
    pickle.loads(evil)
    assert victim.read_text() == "run"  # this one would
    victim.unlink()
    head = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {}))
    with pytest.raises(ValueError, match="nothing was run"):
        read_torch(head + evil if legacy else zipped(evil))
    assert not victim.exists()


@pytest.mark.parametrize("name", ["os system", "builtins eval", "torch load", "numpy load", "operator call"])
def test_other_names_are_refused(name):
    module, function = name.split()
    pickled = f"\x80\x02c{module}\n{function}\n.".encode("latin1")
    with pytest.raises(ValueError, match=rf"it names {module}\.{function}"):
        read_torch(zipped(pickled))


def tensor(count=4, offset=0, size=(4,), stride=(1,), key="0"):
    """A pickle of one tensor, written by hand."""

    text = b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n("
    text += b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + pickle.dumps(key, 2)[2:-1]
    text += b"X\x03\x00\x00\x00cpu" + pickle.dumps(count, 2)[2:-1] + b"tQ"
    for value in (offset, size, stride):
        text += pickle.dumps(value, 2)[2:-1]
    return text + b"\x89NtRs."


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"offset": 1}, "reaches to number 4 of a storage of 4"),
        ({"size": (5,)}, "reaches to number 4"),
        ({"stride": (2,)}, "reaches to number 6"),
        ({"size": (2, 2)}, "sizes .* and strides"),
        ({"offset": -1}, "no count"),
        ({"stride": (-1,)}, "no count"),
        ({"count": 5}, "has 16 bytes, not those of 5"),
        ({"count": 2**40}, "has 16 bytes, not"),
        ({"key": "1"}, "no item named"),
    ],
)
def test_tensors_stay_inside_their_storage(fields, message):
    numbers = np.arange(4, dtype=np.float32).tobytes()
    np.testing.assert_array_equal(read_torch(zipped(tensor(), data_0=numbers))["w"], np.arange(4))
    with pytest.raises((ValueError, KeyError), match=message):
        read_torch(zipped(tensor(**fields), data_0=numbers))


def test_an_archive_that_grows_is_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", tensor(count=2**22, size=(2**22,)))
        archive.writestr("a/data/0", bytes(2**24))
    assert len(buffer.getvalue()) < 2**16
    with pytest.raises(ValueError, match="compressed"):
        read_torch(buffer.getvalue())


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_anywhere_is_an_error(legacy):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    content = save({key: torch.tensor(array) for key, array in state().items()}, legacy)
    for length in range(0, len(content) - 1, 37):
        with pytest.raises(Exception) as error:
            read_torch(content[:length])
        assert not isinstance(error.value, MemoryError | RecursionError)


def test_what_is_no_checkpoint_is_named():
    with pytest.raises(ValueError, match="TorchScript"):
        read_torch(zipped(b"\x80\x02N.", code_a="def f(): pass"))
    with pytest.raises(ValueError, match=r"no data\.pkl"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("b.txt", "")
        read_torch(buffer.getvalue())
    with pytest.raises(ValueError, match="does not begin"):
        read_torch(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="which PyTorch does not have"):
        write_torch({"a": np.zeros(3, np.complex64)})
