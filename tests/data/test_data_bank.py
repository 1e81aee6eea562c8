"""Sources by name, the cache's atomicity, and splits that never share a picture."""

import gzip
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from vaesr.data import Bank, assign_splits, open_bank
from vaesr.data import bank as bank_module
from vaesr.data import hashes as hashes_module
from vaesr.data import writer as writer_module


def noise(seed: int, height: int = 20, width: int = 24, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def save(path: pathlib.Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path)


def write_idx(path: pathlib.Path, array: np.ndarray) -> None:
    data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def cache(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Ten photos of different sizes, a few troublesome files, and files that are no images."""
    root = tmp_path / "photos"
    for number in range(10):
        save(root / f"p{number}.png", noise(number, 20 + number, 40 - number))
    save(root / "deep" / "grey.png", noise(99)[..., 0])
    data = (root / "p0.png").read_bytes()
    (root / "cut.png").write_bytes(data[: len(data) // 2])
    (root / "junk.jpg").write_bytes(b"hello")
    (root / "empty.tif").write_bytes(b"")
    save(root / "tiny.png", noise(5, 8, 30))
    (root / "notes.txt").write_text("not an image")
    (root / ".hidden.png").write_bytes(b"hello")
    (root / "gone.png").symlink_to(root / "nowhere")
    return root


def opened(path: pathlib.Path, cache: pathlib.Path, scheme: str = "folder", **options: object) -> Bank:
    return open_bank(f"{scheme}:{path}", cache_dir=cache, progress=False, **options)


def test_folder_packs_rows_and_reports(
    folder: pathlib.Path, cache: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = open_bank(f"folder:{folder}", cache_dir=cache)
    assert bank.kind == "photos" and len(bank) == 11 and bank.channels == 3
    assert bank.rows.shape == (sum(range(20, 30)) + 20, 40, 3)
    assert isinstance(bank.rows, np.memmap) and not bank.rows.flags.writeable
    for number in range(10):
        image = bank.image(bank.names.index(f"p{number}.png"))
        np.testing.assert_array_equal(image, noise(number, 20 + number, 40 - number))
    report = {entry.name: (entry.action, entry.reason) for entry in bank.report}
    assert set(report) == {"cut.png", "junk.jpg", "empty.tif", "tiny.png", "deep/grey.png", "gone.png"}
    assert report["deep/grey.png"][0] == "converted" and report["tiny.png"][0] == "skipped"
    assert "tiny" in report["tiny.png"][1] and "cannot be read" in report["gone.png"][1]
    assert "skipped junk.jpg" in capsys.readouterr().err
    assert open_bank(f"folder:{folder}", cache_dir=cache).report == bank.report
    assert capsys.readouterr().err == ""  # said once, when it was decoded


@pytest.mark.parametrize("ready", [False, True])
def test_strict_lists_every_file(folder: pathlib.Path, cache: pathlib.Path, ready: bool) -> None:
    if ready:
        opened(folder, cache)
    with pytest.raises(ValueError, match="strict") as error:
        opened(folder, cache, strict=True)
    for name in ("cut.png", "junk.jpg", "empty.tif", "tiny.png", "deep/grey.png", "gone.png"):
        assert name in str(error.value)


def test_second_opening_decodes_nothing(
    folder: pathlib.Path, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(folder, cache)
    monkeypatch.setattr("vaesr.data.folder.decode_image", lambda *a, **k: pytest.fail("decoded again"))
    assert opened(folder, cache).path == first.path
    monkeypatch.undo()
    save(folder / "new.png", noise(50))
    changed = opened(folder, cache)
    assert changed.path != first.path and "new.png" in changed.names
    assert opened(folder, cache, min_size=25).path not in (first.path, changed.path)


def test_environment_names_the_cache(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere") in open_bank(f"folder:{folder}", progress=False).path.parents


@pytest.mark.parametrize("where", ["_pad_rows", "_sync", "_publish"])
def test_crash_before_the_rename_leaves_nothing(
    folder: pathlib.Path, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer_module, where, crash)
    with pytest.raises(KeyboardInterrupt):
        opened(folder, cache)
    assert list((cache / "banks").iterdir()) == []
    monkeypatch.undo()
    assert len(opened(folder, cache)) == 11


@pytest.mark.slow
def test_killed_writer_is_never_read_and_is_swept(folder: pathlib.Path, cache: pathlib.Path) -> None:
    code = (
        "import os, sys; from vaesr.data import open_bank, writer as w\n"
        "w._publish = lambda *a: os._exit(9)\n"
        "open_bank(sys.argv[1], cache_dir=sys.argv[2], progress=False)"
    )
    code = code.replace("import open_bank, writer as w", "import open_bank; import vaesr.data.writer as w")
    root = pathlib.Path(__file__).parents[2]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code, f"folder:{folder}", str(cache)], env=env, check=False)
    assert done.returncode == 9
    (left,) = (cache / "banks").iterdir()
    assert left.name.startswith(".tmp-")
    assert len(opened(folder, cache)) == 11 and left.exists()  # perhaps another process is still at it
    os.utime(left, (0, 0))
    save(folder / "more.png", noise(70))
    opened(folder, cache)
    assert not left.exists()


def test_a_pipe_among_the_photos_is_left_out(folder: pathlib.Path, cache: pathlib.Path) -> None:
    os.mkfifo(folder / "pipe.png")
    report = opened(folder, cache).report
    assert [entry.reason for entry in report if entry.name == "pipe.png"] == [
        "is a pipe, a socket or a device, no file"
    ]


@pytest.mark.parametrize("damage", ["short", "index", "table", "missing", "other pixels"])
def test_damaged_bank_is_made_again(folder: pathlib.Path, cache: pathlib.Path, damage: str) -> None:
    path = opened(folder, cache).path
    if damage == "short":
        os.truncate(path / "pixels.bin", 1000)
    elif damage == "index":
        (path / "index.json").write_text('{"format": 1, "sha')
    elif damage == "table":
        (path / "table.npz").write_bytes(b"PK\x03\x04 and nothing")
    elif damage == "other pixels":
        with open(path / "pixels.bin", "r+b") as file:
            file.seek(200)
            file.write(bytes(500))
    else:
        (path / "pixels.bin").unlink()
    assert bank_module.load_bank(path) is None
    bank = opened(folder, cache)
    np.testing.assert_array_equal(bank.image(bank.names.index("p3.png")), noise(3, 23, 37))
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_large_banks_are_read_through_only_where_their_date_is_another(
    folder: pathlib.Path, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = opened(folder, cache).path / "pixels.bin"
    made = pixels.stat()
    read: list[pathlib.Path] = []
    digest = hashes_module._digest
    monkeypatch.setattr(hashes_module, "_digest", lambda path: read.append(path) or digest(path))
    monkeypatch.setattr(hashes_module, "_ALWAYS_HASHED", made.st_size - 1)
    assert bank_module.load_bank(pixels.parent) is not None and pixels not in read
    with open(pixels, "r+b") as file:
        file.write(bytes(500))
    os.utime(pixels, ns=(made.st_atime_ns, made.st_mtime_ns + 1))
    assert bank_module.load_bank(pixels.parent) is None and pixels in read
    # What keeps its date is believed, which is the price of it.
    os.utime(pixels, ns=(made.st_atime_ns, made.st_mtime_ns))
    assert bank_module.load_bank(pixels.parent) is not None
    # A copy has another date and the same pixels.
    again = opened(folder, cache.with_name("other")).path / "pixels.bin"
    os.utime(again, ns=(0, 0))
    read.clear()
    assert bank_module.load_bank(again.parent) is not None and again in read


@pytest.mark.slow
def test_two_processes_at_once(folder: pathlib.Path, cache: pathlib.Path) -> None:
    code = (
        "import sys; from vaesr.data import open_bank\n"
        "bank = open_bank(sys.argv[1], cache_dir=sys.argv[2], progress=False)\n"
        "print(len(bank), int(bank.rows.sum()))"
    )
    root = pathlib.Path(__file__).parents[2]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code, f"folder:{folder}", str(cache)]
    running = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0] and printed[0] == printed[1] != ""
    assert len(list((cache / "banks").iterdir())) == 1


def test_lost_race_reads_the_winners_bank(
    folder: pathlib.Path, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(folder, cache)
    monkeypatch.setattr("vaesr.data.sources.load_bank", lambda path: None)  # as if it came a moment later
    assert opened(folder, cache).path == first.path
    assert [item.name for item in first.path.parent.iterdir()] == [first.path.name]


def test_splits_are_by_photo_and_part_duplicates(folder: pathlib.Path, cache: pathlib.Path) -> None:
    save(folder / "copy of p1.bmp", noise(1, 21, 39))  # the same pixels in another file format
    bank = opened(folder, cache)
    assert sum(len(index) for index in bank.splits.values()) == len(bank) == 12
    sides = [{bank.image(i).tobytes() for i in index} for index in bank.splits.values()]
    assert len(sides) == 3 and not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    # Names do not matter: the same pictures under other names are split in the same way.
    other = folder.parent / "other"
    for index in range(len(bank)):
        save(other / f"{100 - index}.png", bank.image(index))
    renamed = opened(other, cache)
    for name, index in renamed.splits.items():
        assert {renamed.image(i).tobytes() for i in index} == {
            bank.image(i).tobytes() for i in bank.splits[name]
        }


def test_subfolders_name_the_splits(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    root = tmp_path / "set"
    for number in range(4):
        save(root / "train" / f"{number}.png", noise(number))
    save(root / "val" / "a.png", noise(10))
    save(root / "test" / "sub" / "b.png", noise(11))
    save(root / "train" / "again.png", noise(11))
    bank = opened(root, cache)
    names = {split: sorted(bank.names[i] for i in index) for split, index in bank.splits.items()}
    assert names == {
        "train": [f"train/{n}.png" for n in range(4)],
        "validation": ["val/a.png"], "test": ["test/sub/b.png"],
    }  # fmt: skip
    assert [entry.name for entry in bank.report if entry.action == "note"] == ["train/again.png"]
    assert bank.kind == "fixed" and bank.pixels.shape == (7, 20, 24, 3)


def test_assign_splits_on_random_hashes() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 4, 10, 500):
        hashes = rng.integers(0, max(1, count // 2) + 1, count).astype(np.uint64)
        official = rng.integers(0, 3, count) if count > 4 else np.zeros(count)
        splits, left_out = assign_splits(official, hashes)
        sides = [set(hashes[index]) for index in splits.values()]
        assert sum(map(len, sides)) == len(set().union(*sides))
        assert sum(map(len, splits.values())) + len(left_out) == count
    splits, _ = assign_splits(np.zeros(3), np.arange(3, dtype=np.uint64))
    assert {name: len(index) for name, index in splits.items()} == {"train": 1, "validation": 1, "test": 1}


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx(tmp_path: pathlib.Path, cache: pathlib.Path, ending: str) -> None:
    train, test = noise(0, 40, 6, 7), noise(1, 5, 6, 7)
    write_idx(tmp_path / f"train-images-idx3-ubyte{ending}", train)
    write_idx(tmp_path / f"train-labels-idx1-ubyte{ending}", np.arange(40, dtype=np.uint8) % 10)
    write_idx(tmp_path / f"t10k-images-idx3-ubyte{ending}", test)
    write_idx(tmp_path / f"t10k-labels-idx1-ubyte{ending}", np.arange(5, dtype=np.uint8))
    bank = opened(tmp_path, cache, "idx")
    assert {name: len(index) for name, index in bank.splits.items()} == {
        "train": 36,
        "validation": 4,
        "test": 5,
    }
    np.testing.assert_array_equal(bank.pixels[bank.splits["test"]][..., 0], test)
    np.testing.assert_array_equal(bank.labels[bank.splits["test"]], np.arange(5))
    for index in (0, 17):
        np.testing.assert_array_equal(bank.image(index)[..., 0], train[index])


def test_idx_refuses_damaged_files(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="no train-images"):
        opened(tmp_path, cache, "idx")
    path = tmp_path / "train-images-idx3-ubyte"
    write_idx(path, noise(0, 4, 6, 7))
    good = path.read_bytes()
    for bad, message in (
        (good[:-3], "its header says"),
        (good + b"x", "its header says"),
        (b"\0\0\x0d\x03" + good[4:], "does not begin with an IDX header"),
        (b"", "does not begin"),
        (good[:9], "its header says"),
    ):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=message):
            opened(tmp_path, cache, "idx")
    path.unlink()
    packed = tmp_path / "train-images-idx3-ubyte.gz"
    packed.write_bytes(gzip.compress(good)[:-12])
    with pytest.raises(ValueError, match="damaged or truncated"):
        opened(tmp_path, cache, "idx")
    packed.write_bytes(gzip.compress(good))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="4 images"):
        opened(tmp_path, cache, "idx")
    write_idx(tmp_path / "emnist-train-images-idx3-ubyte.gz", noise(0, 4, 6, 7))
    with pytest.raises(ValueError, match="2 files claim"):
        opened(tmp_path, cache, "idx")
    assert not (cache / "banks").exists() or list((cache / "banks").iterdir()) == []


def test_npy(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    images = noise(0, 30, 5, 6)
    np.save(tmp_path / "a.npy", images)
    bank = opened(tmp_path / "a.npy", cache, "npy")
    assert bank.pixels.shape == (30, 5, 6, 1) and bank.labels is None
    assert {name: len(index) for name, index in bank.splits.items()} == {
        "train": 24,
        "validation": 3,
        "test": 3,
    }
    np.save(tmp_path / "f.npy", images.astype(np.float32) / 255)
    np.testing.assert_array_equal(opened(tmp_path / "f.npy", cache, "npy").pixels, bank.pixels)
    both = tmp_path / "both"
    both.mkdir()
    np.save(both / "train.npy", np.stack([images] * 3, -1)[:20])
    np.save(both / "test.npy", np.stack([images] * 3, -1)[20:])
    np.save(both / "train_labels.npy", np.arange(20))
    np.save(both / "test_labels.npy", np.arange(10))
    bank = opened(both, cache, "npy")
    assert bank.channels == 3 and list(bank.labels[bank.splits["test"]]) == list(range(10))


@pytest.mark.parametrize(
    "array,message",
    [
        (np.zeros((3, 4)), r"\[N, H, W\]"),
        (np.zeros((3, 4, 4), np.int32), "must hold uint8"),
        (np.full((3, 4, 4), 2.0), r"in \[0, 1\]"),
        (np.full((3, 4, 4), np.nan), r"in \[0, 1\]"),
        (np.zeros((0, 4, 4), np.uint8), "no usable image"),
        (np.array([None] * 3), "cannot be read"),
    ],
)
def test_npy_refuses(tmp_path: pathlib.Path, cache: pathlib.Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path / "a.npy", cache, "npy")


@pytest.mark.parametrize(
    "spec,message",
    [
        ("fodler:x", "did you mean 'folder:x'"),
        ("digits", "did you mean 'embedded:digits'"),
        ("embedded:digit", "did you mean 'embedded:digits'"),
        ("a.npy", "did you mean 'npy:a.npy'"),
        ("nonsense", "is not understood; a source is one of"),
        ("folder:", "did you mean 'folder:NAME'"),
        ("random:", "did you mean 'random:photos'"),
        ("randm:photos", "did you mean 'random:photos'"),
        ("nonsense", "random:photos, random:COUNTxHEIGHTxWIDTHxCHANNELS"),
        (
            "random:photo",
            "random:photo.*expected random:photos or random:COUNTx.*such as random:1000x28x28x1",
        ),
        ("random:0x8x8x1", "expected random:photos or"),
        ("random:9x8x8", "expected random:photos or"),
        ("", "is not understood"),
    ],
)
def test_wrong_names(spec: str, message: str, cache: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=message):
        open_bank(spec, cache_dir=cache)


def test_random_images_are_always_the_same(tmp_path: pathlib.Path) -> None:
    one, other = (open_bank("random:5000x8x10x3", cache_dir=tmp_path / name, progress=False) for name in "ab")
    assert one.pixels.shape == (5000, 8, 10, 3)
    np.testing.assert_array_equal(one.pixels, other.pixels)
    assert set(one.labels) == set(range(10)) and set(one.splits) == {"train", "validation", "test"}
    few = open_bank("random:20x8x10x3", cache_dir=tmp_path / "a", progress=False)
    assert len(few) == 20 and few.report == []


def test_random_photos_have_many_sizes(tmp_path: pathlib.Path) -> None:
    bank = open_bank("random:photos", cache_dir=tmp_path, progress=False)
    assert bank.kind == "photos" and bank.channels == 3 and bank.labels is None
    assert len({bank.image(i).shape for i in range(len(bank))}) == len(bank)
    assert min(bank.height.min(), bank.width.min()) >= 256
    assert {name: len(index) for name, index in bank.splits.items()} == {
        "train": 8, "validation": 2, "test": 2
    }  # fmt: skip


def test_wrong_paths(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    for scheme in ("folder", "idx", "npy"):
        with pytest.raises(FileNotFoundError, match="there is no"):
            opened(tmp_path / "nowhere", cache, scheme)
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file"):
        opened(tmp_path / "file.txt", cache)
    with pytest.raises(ValueError, match="no file below"):
        opened(tmp_path, cache)
    (tmp_path / "junk.png").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"no usable image:\n  skipped junk\.png"):
        opened(tmp_path, cache)
    save(tmp_path / "one.png", noise(0))
    with pytest.raises(ValueError, match="no split 'test'"):
        opened(tmp_path, cache).split("test")
