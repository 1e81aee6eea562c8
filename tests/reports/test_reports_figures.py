"""Figures: sizes, pixels that must not change, inputs that must be refused."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vaesr import reports
from vaesr.files.atomic import write_atomically
from vaesr.reports.canvas import MISSING, as_rgb8


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count, columns, rows", [(1, 1, 1), (5, 3, 2), (6, 3, 2), (7, 20, 1)])
def test_grid_keeps_every_pixel(channels: int, count: int, columns: int, rows: int) -> None:
    images = np.random.default_rng(1).integers(0, 256, (count, 4, 6, channels), np.uint8)
    grid = reports.image_grid(images, columns=columns, pad=2)
    columns = min(columns, count)
    assert grid.shape == (rows * 6 + 2, columns * 8 + 2, 3)
    for index, image in enumerate(images):
        top, left = 2 + index // columns * 6, 2 + index % columns * 8
        cell = grid[top : top + 4, left : left + 6]
        np.testing.assert_array_equal(cell, np.broadcast_to(image, cell.shape))
    assert (grid[:2] == 255).all()


def test_floats_are_clipped_rounded_and_nan_is_seen() -> None:
    image = np.array([[-1.0, 2.0, 0.5, np.nan]], np.float32)
    assert as_rgb8(image)[0, :3, 0].tolist() == [0, 255, 128]
    assert tuple(as_rgb8(image)[0, 3]) == MISSING
    assert as_rgb8(jnp.full((2, 2, 1), 0.5, jnp.bfloat16)).shape == (2, 2, 3)


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 2, 4)), np.zeros(3), np.zeros((2, 2), np.int32), np.zeros((0, 2, 3))]
)
def test_odd_images_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="image must be"):
        as_rgb8(bad)


def test_grids_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        reports.image_grid([])
    with pytest.raises(ValueError, match="one shape"):
        reports.image_grid([noise(2, 2, 1), noise(3, 2, 1)])
    with pytest.raises(ValueError, match="columns"):
        reports.image_grid(noise(2, 2, 2, 1), columns=0)
    with pytest.raises(ValueError, match="row_labels must have 2"):
        reports.labelled_grid(noise(4, 8, 8, 1), columns=2, row_labels=["a"])


def test_labels_stand_beside_the_grid() -> None:
    images = noise(6, 16, 16, 3)
    plain = reports.labelled_grid(images, columns=3, zoom=2)
    full = reports.labelled_grid(
        images, columns=3, zoom=2, row_labels=["a", "b"], column_labels=["1", "2", "3"], title="Title"
    )
    top, left = full.shape[0] - plain.shape[0], full.shape[1] - plain.shape[1]
    assert top > 20 and left > 8
    offset = [o for o in range(left + 1) if (full[top:, o : o + plain.shape[1]] == plain).all()]
    assert offset, "the grid itself must be untouched by its labels"


@pytest.mark.parametrize("name", ["a.png", "b.jpg", "c.webp", "ünï 中.png"])
def test_saved_images_open(tmp_path: pathlib.Path, name: str) -> None:
    path = reports.save_image(tmp_path / "new" / name, noise(9, 7, 3), caption="a caption – with ü")
    with Image.open(path) as image:
        assert image.size == (7, 9)
        if name.endswith("png"):
            assert image.info["Description"] == "a caption – with ü"
    assert [p.name for p in (tmp_path / "new").iterdir()] == [name], "no temporary file may stay"
    with pytest.raises(ValueError, match="must end in"):
        reports.save_image(tmp_path / "x.bmp", noise(2, 2, 3))


def test_a_failed_write_leaves_the_old_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_atomically(path, b"old")

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_strip_shows_the_same_place_enlarged_by_a_whole_number() -> None:
    hr = np.zeros((90, 120, 3), np.float32)
    hr[40:60, 70:90] = noise(20, 20, 3)
    assert reports.busiest_crop(hr, (20, 20)) == (40, 70)
    worse = np.clip(hr + 0.1, 0, 1)
    strip = reports.comparison_strip(
        [("HR", hr), ("bicubic", worse), ("ours", hr)], crop=(40, 70), crop_size=20, width=500, context=False
    )
    zoom = (strip.shape[1] - 40) // 3 // 20
    side = 20 * zoom
    for index, image in enumerate((hr, worse, hr)):
        left = 10 + index * (side + 10)
        shown = strip[10 : 10 + side : zoom, left : left + side : zoom]
        np.testing.assert_array_equal(shown, as_rgb8(image)[40:60, 70:90])


def test_strips_work_for_small_and_uint8_images_and_stack() -> None:
    tiny = (noise(3, 5, 1) * 255).astype(np.uint8)
    small = reports.comparison_strip([("HR", tiny), ("other", tiny)])
    large = reports.comparison_strip(
        [("HR", noise(64, 40, 3)), ("a", noise(64, 40, 3)), ("b", noise(64, 40, 3))]
    )
    stacked = reports.stack_strips([small, large])
    assert stacked.shape == (small.shape[0] + large.shape[0], max(small.shape[1], large.shape[1]), 3)
    nan = np.full((16, 16, 3), np.nan, np.float32)
    reports.comparison_strip([("HR", noise(16, 16, 3)), ("nan", nan)])
    for wrong in ([("HR", tiny)], [("HR", tiny), ("o", noise(4, 4, 1))]):
        with pytest.raises(ValueError, match="panels"):
            reports.comparison_strip(wrong)
    with pytest.raises(ValueError, match="outside"):
        reports.comparison_strip([("a", noise(32, 32, 3))] * 2, crop=(20, 0), crop_size=16)


def test_traversal_changes_one_dimension_a_row() -> None:
    seen: list[np.ndarray] = []

    def decode(codes: np.ndarray) -> np.ndarray:
        seen.append(codes)
        return np.zeros((len(codes), 8, 8, 1), np.float32)

    reports.latent_traversal(decode, np.arange(4.0), dimensions=[2, 0], span=2.0, steps=5)
    codes = seen[0].reshape(2, 5, 4)
    np.testing.assert_allclose(codes[0, :, 2], [-2, -1, 0, 1, 2])
    np.testing.assert_allclose(codes[1, :, 0], [-2, -1, 0, 1, 2])
    np.testing.assert_allclose(codes[0][:, [0, 1, 3]], np.tile([0.0, 1.0, 3.0], (5, 1)))
    with pytest.raises(ValueError, match="dimensions must lie"):
        reports.latent_traversal(decode, np.zeros(3), dimensions=[3])


@pytest.mark.slow
def test_manifold_scatter_and_reconstructions_draw() -> None:
    page = reports.latent_manifold(lambda z: np.full((len(z), 4, 4, 1), 0.5), steps=3)
    assert page.shape[0] == page.shape[1]
    points = noise(50, 3)
    for labels in (None, np.arange(50) % 4):
        assert reports.latent_scatter(points, labels, names=["a", "b"]).std() > 1
    with pytest.raises(ValueError, match="D at least 2"):
        reports.latent_scatter(points[:, :1])
    assert reports.reconstruction_figure(noise(5, 8, 8, 1), noise(5, 8, 8, 1), columns=3).ndim == 3
    with pytest.raises(ValueError, match="must match"):
        reports.reconstruction_figure(noise(5, 8, 8, 1), noise(4, 8, 8, 1))


def test_matplotlib_keeps_its_global_state() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    reports.latent_scatter(noise(10, 2))
    assert dict(matplotlib.rcParams) == before
