"""Codes on disk, and photos cut into tiles."""

import dataclasses
import json
import os

import numpy as np
import pytest

from vaesr import data
from vaesr.data.bank import Bank


def splits(count=5):
    rng = np.random.default_rng(0)
    return {
        split: {
            "codes_0": rng.integers(0, 9, (count, 2, 2)).astype(np.uint8),
            "codes_1": rng.integers(0, 9, (count, 4, 4)).astype(np.uint8),
            "index": np.arange(count, dtype=np.int32),
        }
        for split in ("train", "test")
    }


def test_codes_come_back_as_they_were(tmp_path):
    written = data.write_codes(tmp_path / "codes", splits(), {"step": 3})
    found = data.read_codes(tmp_path / "codes")
    assert found.origin == {"step": 3} and found.levels == written.levels == 2
    for split, arrays in splits().items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(found.splits[split][name], array)
            assert found.splits[split][name].dtype == array.dtype
    again = data.write_codes(tmp_path / "codes", splits(3), {"step": 4})
    assert len(again.splits["test"]["index"]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["codes"]


def test_missing_or_damaged_codes_are_none(tmp_path):
    assert data.read_codes(tmp_path / "codes") is None
    data.write_codes(tmp_path / "codes", splits(), {})
    (tmp_path / "codes" / "test-codes_1.npy").write_bytes(b"")
    assert data.read_codes(tmp_path / "codes") is None
    with pytest.raises(ValueError, match=r"split 'train' must hold codes_0 and arrays of one length"):
        data.write_codes(tmp_path / "codes", {"train": {"codes_0": np.zeros(2), "index": np.zeros(3)}}, {})


def test_flipped_codes_are_none_and_told_and_still_have_their_origin(tmp_path, capsys):
    data.write_codes(tmp_path / "codes", splits(), {"step": 3})
    file = tmp_path / "codes" / "train-codes_0.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(0, 0))  # what was hashed in this process is known by its date
    assert np.load(file).shape == (5, 2, 2)  # as an array it is whole
    assert data.read_codes(tmp_path / "codes") is None
    said = f"note: {file.name} of {file.parent} is damaged; the images are encoded again.\n"
    assert capsys.readouterr().err == said
    assert data.read_origin(tmp_path / "codes") == {"step": 3}
    assert data.read_origin(tmp_path) is None
    assert data.write_codes(tmp_path / "codes", splits(), {"step": 3}).levels == 2
    assert data.read_codes(tmp_path / "codes") is not None and not capsys.readouterr().err


@pytest.mark.parametrize("name", ("\x1b[31mX\nerror: not ours", "/etc/hostname", "../origin", ""))
def test_names_in_a_strangers_index_are_shown_as_what_they_are(tmp_path, capsys, name):
    data.write_codes(tmp_path / "codes", splits(), {"step": 3})
    index = tmp_path / "codes" / "codes.json"
    content = json.loads(index.read_text())
    content["hashes"][name] = ["0" * 64, 0]
    index.write_text(json.dumps(content))
    assert data.read_codes(tmp_path / "codes") is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.isascii() and "\x1b" not in said
    assert said.startswith("note: ") and said.endswith(
        f" of {tmp_path / 'codes'} is damaged; the images are encoded again.\n"
    )


def test_codes_of_before_there_were_hashes_are_read(tmp_path):
    data.write_codes(tmp_path / "codes", splits(), {"step": 3})
    index = tmp_path / "codes" / "codes.json"
    content = json.loads(index.read_text())
    del content["hashes"]
    index.write_text(json.dumps(content))
    assert data.read_codes(tmp_path / "codes").levels == 2


def test_the_smallest_integers_that_hold_the_codes():
    assert [data.smallest_integers(n) for n in (1, 256, 257, 65_536, 65_537)] == [
        np.uint8, np.uint8, np.uint16, np.uint16, np.int32,
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"count must lie in \[1, 2\^31\], got 0"):
        data.smallest_integers(0)


def photo_bank():
    """Three photos of 5x7, 4x4 and 6x4 pixels, one per split."""
    rng = np.random.default_rng(1)
    heights, widths = np.array([5, 4, 6]), np.array([7, 4, 4])
    rows = rng.integers(0, 256, (heights.sum(), 7, 3)).astype(np.uint8)
    start = np.array([0, 5, 9], np.int32)
    names = {"train": np.array([0]), "validation": np.array([1]), "test": np.array([2])}
    return Bank(rows, start, heights, widths, names, None, ["a", "b", "c"], [], "folder:x", None)


def test_tiles_are_the_photos_pixels_and_stay_in_their_split():
    bank = photo_bank()
    tiles = data.tile_photos(bank, 2, stride=1)
    assert tiles.kind == "fixed" and tiles.pixels.shape[1:] == (2, 2, 3)
    # Overlapping for training, side by side where pixels are measured.
    assert [len(tiles.split(s)) for s in ("train", "validation", "test")] == [4 * 6, 2 * 2, 3 * 2]
    for split, photo in (("train", 0), ("validation", 1), ("test", 2)):
        for index in tiles.split(split):
            name, _, place = tiles.names[index].partition("@")
            top, left = map(int, place.split(","))
            assert name == bank.names[photo]
            np.testing.assert_array_equal(
                tiles.pixels[index], bank.image(photo)[top : top + 2, left : left + 2]
            )
    batch = next(data.evaluation_batches(tiles, "test", 4))
    assert batch["image"].shape == (4, 2, 2, 3)


def test_tiles_that_do_not_fit_are_sentences():
    with pytest.raises(ValueError, match="size and stride must be at least 1, got 0 and 0"):
        data.tile_photos(photo_bank(), 0)
    with pytest.raises(ValueError, match="'folder:x': no validation photo has 5 x 5 pixels"):
        data.tile_photos(photo_bank(), 5)
    grey = dataclasses.replace(photo_bank(), rows=photo_bank().rows[..., :1])
    assert data.tile_photos(grey, 4).channels == 1
