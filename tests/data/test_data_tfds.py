"""Embedded sets and any TFDS set, without TensorFlow."""

import pathlib
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from vaesr.data import EMBEDDED, open_bank
from vaesr.data.embedded import PHOTOS, builder_class, embedded_key, read_digits

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    yield tmp_path_factory.mktemp("cache")


@pytest.mark.slow
def test_digits(cache: pathlib.Path) -> None:
    bank = open_bank("embedded:digits", cache_dir=cache, progress=False)
    assert bank.pixels.shape == (5000, 28, 28, 1) and bank.channels == 1
    assert {name: len(index) for name, index in bank.splits.items()} == {
        "train": 4000, "validation": 500, "test": 500,
    }  # fmt: skip
    assert (np.bincount(bank.labels[bank.splits["test"]]) == 50).all()
    images, _ = read_digits("digits")
    assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in bank.pixels)
    assert bank.pixels[bank.labels == 0].mean() > bank.pixels[bank.labels == 1].mean()  # rings over strokes


def test_embedded_set_is_a_tfds_set(cache: pathlib.Path) -> None:
    bank = open_bank("embedded:digits8x8", cache_dir=cache, progress=False)
    assert bank.pixels.shape == (1797, 8, 8, 1) and bank.pixels.max() == 255
    folder = cache / "tfds" / embedded_key("digits8x8")
    builder_class("digits8x8")  # registers the name
    source = tfds.data_source("vaesr_digits8x8", split="test", data_dir=str(folder), download=False)
    assert len(source) == len(bank.splits["test"])
    np.testing.assert_array_equal(source[3]["image"], bank.image(int(bank.splits["test"][3])))


def test_photos(cache: pathlib.Path) -> None:
    bank = open_bank("embedded:photos", cache_dir=cache, progress=False)
    names = {split: {bank.names[i] for i in index} for split, index in bank.splits.items()}
    assert names["test"] == {"astronaut", "chelsea", "coffee"}
    assert {"motorcycle_left", "motorcycle_right"} <= names["train"]
    assert names == {split: {file.split(".")[0] for _, file in files} for split, files in PHOTOS.items()}
    astronaut = bank.image(bank.names.index("astronaut"))
    assert astronaut.shape == (512, 512, 3)
    np.testing.assert_array_equal(astronaut[0, 0], [154, 147, 151])


@pytest.mark.slow
def test_nothing_heavy_is_imported(cache: pathlib.Path) -> None:
    code = (
        "import sys, vaesr.data\n"
        "assert not {'tensorflow_datasets', 'PIL', 'tqdm'} & set(sys.modules), 'at import'\n"
        "vaesr.data.open_bank('embedded:digits8x8', cache_dir=sys.argv[1], progress=False)\n"
        "assert not {'pandas', 'sklearn', 'mlxtend', 'tensorflow'} & set(sys.modules)"
    )
    root = pathlib.Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(cache / "fresh")], cwd=root, check=True)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, cache: pathlib.Path) -> None:
    changed = EMBEDDED["digits"]._replace(packages=("no-such-package",))
    monkeypatch.setitem(EMBEDDED, "digits", changed)
    with pytest.raises(ImportError, match=r"no-such-package.*vaesr\[experiments\]"):
        open_bank("embedded:digits", cache_dir=cache)


@pytest.mark.parametrize("name,shape,labels", [("mnist", (28, 28, 1), True), ("cifar10", (32, 32, 3), True)])
def test_any_tfds_set(tmp_path: pathlib.Path, name: str, shape: tuple[int, ...], labels: bool) -> None:
    with tfds.testing.mock_data(num_examples=30):
        bank = open_bank(f"tfds:{name}", cache_dir=tmp_path, progress=False)
    assert bank.pixels.shape == (30, *shape) and (bank.labels is not None) == labels
    assert {split: len(index) for split, index in bank.splits.items()} == {
        "train": 24,
        "validation": 3,
        "test": 3,
    }


def test_tfds_super_resolution_set_takes_hr(tmp_path: pathlib.Path) -> None:
    with tfds.testing.mock_data(num_examples=6):
        bank = open_bank("tfds:div2k:bicubic_x2", cache_dir=tmp_path, progress=False)
    assert len(bank) == 6 and bank.channels == 3 and bank.kind == "photos"


@pytest.mark.slow
def test_official_splits_of_a_prepared_set(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_bank("embedded:digits8x8", cache_dir=tmp_path, progress=False)
    # Where TFDS looks is fixed when it is imported; a registered folder is the way to add one.
    data_dir = str(tmp_path / "tfds" / embedded_key("digits8x8"))
    builder = tfds.builder
    source = tfds.data_source
    monkeypatch.setattr(tfds, "builder", lambda name: builder(name, data_dir=data_dir))
    monkeypatch.setattr(tfds, "data_source", lambda name, **kw: source(name, data_dir=data_dir, **kw))
    ours = open_bank("embedded:digits8x8", cache_dir=tmp_path, progress=False)
    bank = open_bank("tfds:vaesr_digits8x8", cache_dir=tmp_path, progress=False)
    for split, index in bank.splits.items():
        np.testing.assert_array_equal(bank.pixels[index], ours.pixels[ours.splits[split]])


def test_tfds_errors_say_what_to_do(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="did you mean tfds:mnist"):
        open_bank("tfds:mnits", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="nope"):
        open_bank("tfds:cifar10_corrupted:nope", cache_dir=tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # as where TensorFlow is missing
    with pytest.raises(RuntimeError, match=r"not prepared as ArrayRecord[^$]*download_and_prepare"):
        open_bank("tfds:mnist", cache_dir=tmp_path)
