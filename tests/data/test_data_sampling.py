"""Batches are pure functions of (key, step, position): on the device, from the host, sharded, resumed."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vaesr.data import (
    Bank,
    ImageSampler,
    PairSampler,
    batch_bytes,
    evaluation_batches,
    fits_on_device,
    open_bank,
    photos,
)
from vaesr.data.evaluation import evaluation_batch_size
from vaesr.imaging import dihedral, imresize, to_float

B = 8


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """Sixty labelled 5x6 images, 10 of them for test; each image's first pixel is its number."""
    root = tmp_path_factory.mktemp("npy")
    images = np.random.default_rng(0).integers(0, 256, (60, 5, 6, 2)).astype(np.uint8)
    images[:, 0, 0, 0] = np.arange(60)
    for name, part in (("train", slice(0, 50)), ("test", slice(50, 60))):
        np.save(root / f"{name}.npy", images[part])
        np.save(root / f"{name}_labels.npy", np.arange(60)[part])
    return open_bank(f"npy:{root}", cache_dir=root / "cache", progress=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """Photos of different, odd sizes: three usable ones and a small one in train, one in each other split."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    sizes = {"train/a": (61, 83), "train/b": (50, 47), "train/c": (90, 45), "train/small": (20, 90)}
    for name, (height, width) in (sizes | {"val/d": (64, 64), "test/e": (64, 66)}).items():
        (root / name).parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(
            root / f"{name}.png"
        )
    return open_bank(f"folder:{root}", cache_dir=root / "cache", progress=False)


def image_sampler(bank: Bank, **options: bool) -> ImageSampler:
    return ImageSampler(bank, "train", B, **options)


def pair_sampler(bank: Bank, scale: int = 3, **options: bool) -> PairSampler:
    return PairSampler(bank, "train", B, scale=scale, patch=6, **options)


@functools.partial(jax.jit, static_argnums=0)
def drawn(sampler: ImageSampler | PairSampler, key: jax.Array, step: jax.Array, position: jax.Array) -> dict:
    return sampler.draw(key, step, position)


@functools.partial(jax.jit, static_argnums=(0, 2))
def many(sampler: ImageSampler | PairSampler, key: jax.Array, count: int) -> dict:
    return jax.vmap(lambda step: sampler.draw(key, step, jnp.arange(B)))(jnp.arange(count))


def device_batch(sampler: ImageSampler | PairSampler, key: jax.Array, step: int) -> dict[str, np.ndarray]:
    made = jax.jit(lambda source, step: sampler(source, key=key, step=step, position=jnp.arange(B)))
    return jax.tree.map(np.asarray, made(sampler.source(), step))


@pytest.mark.slow
def test_an_epoch_visits_everything_once(digits: Bank, key: jax.Array) -> None:
    sampler = image_sampler(digits)
    size = sampler.size
    assert size == 45
    stream = np.asarray(many(sampler, key, 20)["index"]).reshape(-1)
    epochs = [stream[n * size : (n + 1) * size] for n in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(size))
    assert not (epochs[0] == epochs[1]).all()


@pytest.mark.slow
def test_batches_say_which_image_of_the_bank_they_hold(digits: Bank, key: jax.Array) -> None:
    for split in ("train", "validation", "test"):
        made = device_batch(ImageSampler(digits, split, 5), key, 1)
        assert made["index"].dtype == np.int32
        np.testing.assert_array_equal(np.round(made["image"][:, 0, 0, 0] * 255), made["index"])
        for batch in evaluation_batches(digits, split, 4, limit=5):
            np.testing.assert_array_equal(np.round(batch["image"][:, 0, 0, 0] * 255), batch["index"])
    sampler = image_sampler(digits)
    draw = jax.tree.map(np.asarray, sampler.draw(key, jnp.int32(1), jnp.arange(B)))
    np.testing.assert_array_equal(
        sampler.gather_host(draw)["index"], sampler.gather(sampler.source(), draw)["index"]
    )


def test_images_and_labels_belong_together(digits: Bank, key: jax.Array) -> None:
    batch = device_batch(image_sampler(digits), key, 3)
    assert batch["image"].dtype == np.float32 and batch["image"].shape == (B, 5, 6, 2)
    np.testing.assert_array_equal(np.rint(batch["image"][:, 0, 0, 0] * 255), batch["label"])
    for image, label in zip(batch["image"], batch["label"], strict=True):
        np.testing.assert_array_equal(image, np.asarray(to_float(digits.pixels[label])))
    assert not np.isin(batch["label"], digits.splits["test"]).any()


@pytest.mark.slow
def test_flips_are_half_of_the_images(digits: Bank, key: jax.Array) -> None:
    sampler = image_sampler(digits, flips=True)
    draws = many(sampler, key, 50)
    assert 0.4 < np.mean(draws["flip"]) < 0.6
    batch, draw = device_batch(sampler, key, 2), drawn(sampler, key, 2, jnp.arange(B))
    for image, label, flip in zip(batch["image"], batch["label"], np.asarray(draw["flip"]), strict=True):
        expected = np.asarray(to_float(digits.pixels[label]))
        np.testing.assert_array_equal(image, expected[:, ::-1] if flip else expected)


@pytest.mark.parametrize("kind", ["image", "pair"])
def test_host_equals_device_bit_for_bit(digits: Bank, pictures: Bank, key: jax.Array, kind: str) -> None:
    sampler = image_sampler(digits, flips=True) if kind == "image" else pair_sampler(pictures)
    on_device = device_batch(sampler, key, 7)
    draw = drawn(sampler, key, 7, jnp.arange(B))
    raw = sampler.gather_host(jax.tree.map(np.asarray, draw))
    made = jax.jit(lambda source: sampler.host_batch(source, key=key, step=7, position=jnp.arange(B)))
    from_host = made({"raw": raw, "draw": draw})
    assert on_device.keys() == from_host.keys()
    for name in on_device:
        np.testing.assert_array_equal(on_device[name], np.asarray(from_host[name]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "pair"])
def test_shards_and_scans_draw_the_same(digits: Bank, pictures: Bank, key: jax.Array, kind: str) -> None:
    sampler = image_sampler(digits, flips=True) if kind == "image" else pair_sampler(pictures)
    whole = drawn(sampler, key, 5, jnp.arange(B))
    parts = [drawn(sampler, key, 5, jnp.arange(B)[part]) for part in (slice(0, 3), slice(3, 8))]
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    jax.tree.map(np.testing.assert_array_equal, whole, joined)
    scanned = jax.lax.scan(
        lambda step, _: (step + 1, sampler.draw(key, step, jnp.arange(B))), jnp.int32(0), None, 6
    )
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[5]), whole, scanned[1])


def test_sharded_batch_equals_plain(pictures: Bank, key: jax.Array) -> None:
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    sampler = pair_sampler(pictures)
    position = jax.device_put(jnp.arange(B), rows)
    made = jax.jit(
        lambda source, position: sampler(source, key=key, step=4, position=position), out_shardings=rows
    )
    batch = made(sampler.source(everywhere), position)
    assert batch["x_hr"].sharding.is_equivalent_to(rows, 4)
    plain = device_batch(sampler, key, 4)
    np.testing.assert_array_equal(batch["x_hr"], plain["x_hr"])
    np.testing.assert_allclose(batch["x_lr"], plain["x_lr"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_lr_is_the_crop_of_the_whole_photos_reduction(pictures: Bank, key: jax.Array, scale: int) -> None:
    sampler = pair_sampler(pictures, scale=scale, quantise_lr=False)
    batch = device_batch(sampler, key, 1)
    draw = jax.tree.map(np.asarray, drawn(sampler, key, 1, jnp.arange(B)))
    usable = [i for i in pictures.splits["train"] if min(pictures.image(i).shape[:2]) >= sampler.region]
    assert batch["x_lr"].shape == (B, 6, 6, 3) and batch["x_hr"].shape == (B, 6 * scale, 6 * scale, 3)
    whole = {i: np.asarray(imresize(to_float(pictures.image(i)), 1 / scale)) for i in usable}
    for n in range(B):
        index, turn = usable[draw["photo"][n]], int(draw["symmetry"][n])
        top, left = int(draw["top"][n]) // scale + 2, int(draw["left"][n]) // scale + 2
        assert draw["top"][n] % scale == 0 and draw["left"][n] % scale == 0
        lr = dihedral(whole[index][top : top + 6, left : left + 6], turn)
        np.testing.assert_allclose(batch["x_lr"][n], lr, atol=2e-6)
        hr = pictures.image(index)[top * scale : (top + 6) * scale, left * scale : (left + 6) * scale]
        np.testing.assert_array_equal(batch["x_hr"][n], dihedral(to_float(hr), turn))


def test_lr_is_on_the_grid_of_files(pictures: Bank, key: jax.Array) -> None:
    rounded = device_batch(pair_sampler(pictures), key, 1)["x_lr"]
    exact = device_batch(pair_sampler(pictures, quantise_lr=False), key, 1)["x_lr"]
    np.testing.assert_allclose(rounded * 255, np.rint(rounded * 255), atol=1e-4)
    assert np.abs(rounded - np.clip(exact, 0, 1)).max() <= 0.5 / 255 + 1e-6


def test_patches_cover_photos_evenly(pictures: Bank, key: jax.Array) -> None:
    sampler = pair_sampler(pictures, scale=2)
    draws = many(sampler, key, 1000)
    photo = np.asarray(draws["photo"]).ravel()
    places = np.prod(sampler._places, 1)
    np.testing.assert_allclose(np.bincount(photo) / len(photo), places / places.sum(), atol=0.025)
    assert set(np.asarray(draws["symmetry"]).ravel()) == set(range(8))
    for number, (rows, columns) in enumerate(sampler._places):
        top, left = (np.asarray(draws[name]).ravel()[photo == number] // 2 for name in ("top", "left"))
        assert top.min() == 0 and left.min() == 0 and top.max() == rows - 1 and left.max() == columns - 1


@pytest.mark.slow
def test_small_photos_are_reported(pictures: Bank, capsys: pytest.CaptureFixture[str]) -> None:
    sampler = pair_sampler(pictures)
    assert [entry.name for entry in sampler.report] == ["train/small.png"] and sampler.size == 3
    assert "1 photos too small" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no photo in train"):
        PairSampler(pictures, "train", 2, scale=4, patch=40)
    one = PairSampler(pictures, "test", 2, scale=2, patch=6)  # a split of one photo
    assert (np.asarray(one.draw(jax.random.key(0), 0, jnp.arange(2))["photo"]) == 0).all()


def test_one_compile_for_all_steps(pictures: Bank, key: jax.Array) -> None:
    sampler = pair_sampler(pictures)
    made = jax.jit(lambda source, step: sampler(source, key=key, step=step, position=jnp.arange(B)))
    source = sampler.source()
    for step in range(4):
        made(source, jnp.int32(step))
    assert made._cache_size() == 1
    assert sampler.nbytes == source["rows"].nbytes


def test_doors(digits: Bank, pictures: Bank) -> None:
    for size in (0, -1, 2.5):
        with pytest.raises(ValueError, match="batch_size must be"):
            ImageSampler(digits, "train", size)
    with pytest.raises(ValueError, match="different sizes"):
        ImageSampler(pictures, "train", 2)
    with pytest.raises(ValueError, match="no split 'dev'"):
        ImageSampler(digits, "dev", 2)
    with pytest.raises(ValueError, match="scale must be"):
        PairSampler(pictures, "train", 2, scale=0, patch=4)
    with pytest.raises(ValueError, match="fraction"):
        fits_on_device(digits, fraction=0)
    assert fits_on_device(digits) and not fits_on_device(digits, fraction=1e-12)


def test_evaluation_batches_pad_and_mask(digits: Bank) -> None:
    batches = list(evaluation_batches(digits, "test", 4))
    assert [batch["mask"].sum() for batch in batches] == [4, 4, 2]
    assert {batch["image"].shape for batch in batches} == {(4, 5, 6, 2)}
    labels = np.concatenate([batch["label"][batch["mask"] == 1] for batch in batches])
    np.testing.assert_array_equal(labels, np.arange(50, 60))
    limited = list(evaluation_batches(digits, "test", 4, limit=5))
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in limited])[:5], [50, 52, 54, 56, 58])
    expected = np.asarray(to_float(digits.pixels[digits.splits["test"][:4]]))
    np.testing.assert_allclose(batches[0]["image"], expected, atol=1e-7)
    with pytest.raises(ValueError, match="limit"):
        evaluation_batches(digits, "test", 4, limit=0)


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(1000, 28, 250), (10, 28, 10), (250, 256, 64), (4, 1024, 4), (5, 4096, 1)]
)
def test_batches_of_evaluations_are_within_memory(count: int, size: int, expected: int) -> None:
    rows, sizes = np.broadcast_to(np.uint8(0), (count * size, size, 3)), np.full(count, size)
    splits = {"train": np.arange(count), "test": np.arange(1)}
    bank = Bank(rows, np.arange(count) * size, sizes, sizes, splits, None, [], [], "", pathlib.Path())
    assert evaluation_batch_size(bank) == expected


def test_photos_yields_names_and_views(pictures: Bank) -> None:
    ((name, image),) = photos(pictures, "test")
    assert name == "test/e.png" and image.shape == (64, 66, 3) and image.dtype == np.uint8


@pytest.mark.slow
def test_fixed_bank_serves_pairs(tmp_path: pathlib.Path, key: jax.Array) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3)).astype(np.uint8))
    bank = open_bank(f"npy:{tmp_path / 'a.npy'}", cache_dir=tmp_path, progress=False)
    batch = device_batch(pair_sampler(bank, scale=2), key, 0)
    assert batch["x_lr"].shape == (B, 6, 6, 3)


def test_bytes_of_a_batch_without_reading_the_data(
    digits: Bank, pictures: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, place = jax.random.key(0), jnp.arange(B, dtype=jnp.int32)
    for sampler in (
        ImageSampler(digits, "train", B),
        PairSampler(pictures, "train", B, scale=2, patch=8),
    ):
        batch = sampler(sampler.source(), key=key, step=jnp.int32(0), position=place)
        monkeypatch.setattr(sampler, "resident", None)
        assert batch_bytes(sampler, B) == sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
