"""Pairs of several scales: each as its own sampler makes it, on every path, from one copy of the photos."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vaesr.data import Bank, HostLoader, MultiScaleSampler, PairSampler, open_bank

B = 4
SCALES = (2, 3, 4)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """Two photos for patches of all scales, and between them one that is too small for x3 and x4."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    sizes = {"train/a": (61, 53), "train/b": (26, 90), "train/c": (50, 47)}
    sizes |= {"val/d": (64, 64), "test/e": (64, 66)}
    for name, (height, width) in sizes.items():
        (root / name).parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(root / f"{name}.png")
    return open_bank(f"folder:{root}", cache_dir=root / "cache", progress=False)


@pytest.fixture(scope="module")
def sampler(pictures: Bank) -> MultiScaleSampler:
    """Patches of 6 LR pixels: regions of 20, 30 and 40 pixels."""
    return MultiScaleSampler({s: PairSampler(pictures, "train", B, scale=s, patch=6) for s in SCALES})


def batch_of(
    sampler: PairSampler | MultiScaleSampler, key: jax.Array, step: int, **places: NamedSharding
) -> dict[str, np.ndarray]:
    made = jax.jit(
        lambda source, step: sampler(source, key=key, step=step, position=jnp.arange(B)),
        out_shardings=places.get("rows"),
    )
    return jax.tree.map(np.asarray, made(sampler.source(places.get("everywhere")), step))


@pytest.mark.slow
def test_each_scale_is_what_its_own_sampler_makes(sampler: MultiScaleSampler, key: jax.Array) -> None:
    together = batch_of(sampler, key, 3)
    assert set(together) == {f"x_{kind}_{s}" for kind in ("lr", "hr") for s in SCALES}
    assert sampler.scales == SCALES and sampler.samplers[2].size == 3 and sampler.samplers[4].size == 2
    for scale in SCALES:
        alone = batch_of(sampler.samplers[scale], key, 3)
        assert together[f"x_hr_{scale}"].shape == (B, 6 * scale, 6 * scale, 3)
        np.testing.assert_array_equal(together[f"x_hr_{scale}"], alone["x_hr"])
        np.testing.assert_allclose(together[f"x_lr_{scale}"], alone["x_lr"], atol=1e-6)


def test_the_photos_are_held_once(sampler: MultiScaleSampler) -> None:
    source = sampler.source()
    assert sampler.nbytes == source["rows"].nbytes == sampler.samplers[2].nbytes
    assert {name: value.size for name, value in source.items() if name != "rows"} == {
        "start_2": 3,
        "start_3": 2,
        "start_4": 2,
    }
    # x3 and x4 leave out photo b, yet must not read it where photo c begins.
    np.testing.assert_array_equal(source["start_2"], [0, 61, 87])
    np.testing.assert_array_equal(source["start_4"], [0, 87])


@pytest.mark.parametrize("steps_per_dispatch", [1, 2])
def test_host_equals_device_bit_for_bit(
    sampler: MultiScaleSampler, key: jax.Array, steps_per_dispatch: int
) -> None:
    with HostLoader(sampler, key=key, start_step=5, steps_per_dispatch=steps_per_dispatch) as loader:
        item = next(loader)
    if steps_per_dispatch > 1:
        item = jax.tree.map(lambda leaf: leaf[0], item)
    made = jax.jit(lambda item: sampler.host_batch(item, key=key, step=5, position=jnp.arange(B)))
    from_host, on_device = made(item), batch_of(sampler, key, 5)
    assert from_host.keys() == on_device.keys()
    for name, value in on_device.items():
        np.testing.assert_array_equal(value, np.asarray(from_host[name]))


@pytest.mark.slow
def test_shards_make_the_same(sampler: MultiScaleSampler, key: jax.Array) -> None:
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    plain, sharded = batch_of(sampler, key, 4), batch_of(sampler, key, 4, rows=rows, everywhere=everywhere)
    for scale in SCALES:
        np.testing.assert_array_equal(plain[f"x_hr_{scale}"], sharded[f"x_hr_{scale}"])
        np.testing.assert_allclose(plain[f"x_lr_{scale}"], sharded[f"x_lr_{scale}"], atol=1e-6)
    with HostLoader(sampler, key=key, start_step=4, sharding=rows) as loader:
        item = next(loader)
    whole = sampler.gather_host(jax.tree.map(np.asarray, sampler.draw(key, 4, jnp.arange(B))))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, item["raw"]), whole)
    assert item["raw"]["region_3"].sharding.is_equivalent_to(rows, 4)


def test_doors(sampler: MultiScaleSampler, pictures: Bank) -> None:
    pair = sampler.samplers[2]
    with pytest.raises(ValueError, match="samplers is empty"):
        MultiScaleSampler({})
    with pytest.raises(ValueError, match=r"samplers\[3\] has scale 2"):
        MultiScaleSampler({3: pair})
    for fields, words in (
        ({"split": "train", "batch_size": 2}, "share one batch_size, got .*4.*"),
        ({"split": "validation", "batch_size": B}, "share one split, got 'train' and 'validation'"),
    ):
        other = PairSampler(pictures, scale=3, patch=6, **fields)
        with pytest.raises(ValueError, match=words):
            MultiScaleSampler({2: pair, 3: other})
    again = dataclasses.replace(pictures)
    with pytest.raises(ValueError, match="share one bank"):
        MultiScaleSampler({2: pair, 3: PairSampler(again, "train", B, scale=3, patch=6)})
