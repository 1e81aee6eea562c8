"""Squares of one size and images of fewer bits, in the bank."""

import numpy as np
import pytest
from PIL import Image

from vaesr.data import Square, open_bank


def test_central_square_by_averages():
    images = np.random.default_rng(0).integers(0, 255, (3, 218, 178, 3), np.uint8)
    found = Square(64, (15, 40, 15, 30)).apply(images)
    assert found.shape == (3, 64, 64, 3)
    # The authors' cut of CelebA: columns 15 to 163, rows 40 to 188.
    for image, result in zip(images, found, strict=True):
        cut = Image.fromarray(image).crop((15, 40, 163, 188)).resize((64, 64), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(result, np.asarray(cut))
    even = np.full((1, 10, 30, 1), 77, np.uint8)
    np.testing.assert_array_equal(Square(4).apply(even), np.full((1, 4, 4, 1), 77))


def test_five_bits_are_the_highest_spread_again():
    """The authors' floor(x / 8) of 31 levels."""
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    found = Square(0, bits=5).apply(every)
    np.testing.assert_array_equal(np.rint(found / 255 * 31), every // 8)
    assert found.min() == 0 and found.max() == 255


def test_a_folder_of_photos_becomes_one_size(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, shape in enumerate([(40, 60), (33, 20), (50, 50), (25, 90)]):
        Image.fromarray(rng.integers(0, 255, (*shape, 3), np.uint8)).save(folder / f"{i}.png")
    spec = f"folder:{folder}"
    bank = open_bank(spec, cache_dir=tmp_path / "cache", progress=False, square=Square(16, bits=5))
    assert bank.kind == "fixed" and bank.pixels.shape == (4, 16, 16, 3)
    assert len(np.unique(bank.pixels)) <= 32
    # Another square is another bank, and none is as the files are.
    other = open_bank(spec, cache_dir=tmp_path / "cache", progress=False, square=Square(16))
    assert other.path != bank.path and len(np.unique(other.pixels)) > 32
    assert open_bank(spec, cache_dir=tmp_path / "cache", progress=False).kind == "photos"


def test_bad_squares():
    for fields in ({"side": -1}, {"side": 4, "margins": (0, 0, 0, -1)}, {"side": 4, "bits": 9}):
        with pytest.raises(ValueError, match="side must be at least 0, margins four of at least 0"):
            Square(**fields)
    with pytest.raises(ValueError, match="leave nothing of an image of 8x4"):
        Square(2, (0, 2, 0, 2)).apply(np.zeros((1, 4, 8, 3), np.uint8))
