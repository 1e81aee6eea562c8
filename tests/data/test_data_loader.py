"""The background loader: same batches as the device path, sharded or not, and it ends cleanly."""

import functools
import gc
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vaesr.data import HostLoader, ImageSampler, open_bank

B = 8


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> ImageSampler:
    root = tmp_path_factory.mktemp("npy")
    np.save(root / "a.npy", np.random.default_rng(0).integers(0, 256, (40, 4, 4)).astype(np.uint8))
    return ImageSampler(
        open_bank(f"npy:{root / 'a.npy'}", cache_dir=root, progress=False), "train", B, flips=True
    )


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "vaesr-loader"]


@functools.partial(jax.jit, static_argnums=0)
def on_device(sampler: ImageSampler, source: dict, key: jax.Array, step: int) -> jax.Array:
    return sampler(source, key=key, step=step, position=jnp.arange(B))["image"]


@functools.partial(jax.jit, static_argnums=0)
def from_host(sampler: ImageSampler, source: dict, key: jax.Array) -> jax.Array:
    return sampler.host_batch(source, key=key, step=0, position=jnp.arange(B))["image"]


def expected(sampler: ImageSampler, key: jax.Array, step: int) -> np.ndarray:
    return np.asarray(on_device(sampler, sampler.source(), key, step))


def finished(sampler: ImageSampler, key: jax.Array, source: dict) -> np.ndarray:
    return np.asarray(from_host(sampler, source, key))


@pytest.mark.slow
def test_equals_the_device_path_and_resumes(sampler: ImageSampler, key: jax.Array) -> None:
    with HostLoader(sampler, key=key) as loader:
        straight = [finished(sampler, key, next(loader)) for _ in range(8)]
    for step in (0, 3, 7):
        np.testing.assert_array_equal(straight[step], expected(sampler, key, step))
    with HostLoader(sampler, key=key, start_step=6) as loader:
        np.testing.assert_array_equal(finished(sampler, key, next(loader)), straight[6])
        np.testing.assert_array_equal(finished(sampler, key, next(loader)), straight[7])
    assert threads() == []


@pytest.mark.slow
def test_raw_keys_and_other_generators(sampler: ImageSampler) -> None:
    for key in (jax.random.PRNGKey(3), jax.random.key(3, impl="rbg")):
        with HostLoader(sampler, key=key) as loader:
            np.testing.assert_array_equal(finished(sampler, key, next(loader)), expected(sampler, key, 0))


def test_without_a_cpu_backend(
    sampler: ImageSampler, key: jax.Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under JAX_PLATFORMS=cuda: the draws are made on the default device, and are the same."""

    def no_cpu(*arguments: object, backend: str | None = None, **knobs: object) -> list[jax.Device]:
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return jax.devices()

    wanted = expected(sampler, key, 0)
    monkeypatch.setattr(jax, "local_devices", no_cpu)
    with HostLoader(sampler, key=key) as loader:
        item = next(loader)
    np.testing.assert_array_equal(finished(sampler, key, item), wanted)


@pytest.mark.slow
def test_several_steps_an_item(sampler: ImageSampler, key: jax.Array) -> None:
    with HostLoader(sampler, key=key, steps_per_dispatch=3, start_step=3) as loader:
        item = next(loader)
        second = next(loader)
    assert item["raw"]["image"].shape == (3, B, 4, 4, 1)
    for k in range(3):
        part = jax.tree.map(lambda leaf, k=k: leaf[k], item)
        np.testing.assert_array_equal(finished(sampler, key, part), expected(sampler, key, 3 + k))
    part = jax.tree.map(lambda leaf: leaf[0], second)
    np.testing.assert_array_equal(finished(sampler, key, part), expected(sampler, key, 6))


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("axes", [("data",), ("data", "fsdp")])
def test_sharded(sampler: ImageSampler, key: jax.Array, steps: int, axes: tuple[str, ...]) -> None:
    shape = (4,) if len(axes) == 1 else (2, 2)
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(shape), axes)
    with HostLoader(
        sampler, key=key, steps_per_dispatch=steps, sharding=NamedSharding(mesh, P("data"))
    ) as loader:
        item = next(loader)
    image = item["raw"]["image"]
    assert image.shape == ((steps,) if steps > 1 else ()) + (B, 4, 4, 1)
    spec = P(None, "data") if steps > 1 else P("data")
    assert image.sharding.is_equivalent_to(NamedSharding(mesh, spec), image.ndim)
    last = jax.tree.map(lambda leaf: np.asarray(leaf)[-1] if steps > 1 else np.asarray(leaf), item)
    np.testing.assert_array_equal(finished(sampler, key, last), expected(sampler, key, steps - 1))


def test_worker_errors_reach_the_consumer(
    sampler: ImageSampler, key: jax.Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(draw: dict) -> dict:
        calls.append(1)
        if len(calls) == 3:
            raise OSError("the disk went away")
        return {"image": np.zeros((B, 4, 4, 1), np.uint8)}

    monkeypatch.setattr(sampler, "gather_host", broken)
    loader = HostLoader(sampler, key=key)
    next(loader), next(loader)
    for _ in range(2):  # and again, if asked again
        with pytest.raises(OSError, match="disk went away"):
            next(loader)
    assert threads() == []


def test_an_error_in_the_loop_ends_the_thread(sampler: ImageSampler, key: jax.Array) -> None:
    with pytest.raises(RuntimeError, match="loop"), HostLoader(sampler, key=key) as loader:
        next(loader)
        raise RuntimeError("loop")
    assert threads() == []
    with pytest.raises(StopIteration):
        next(loader)
    loader.close()


@pytest.mark.slow
def test_a_forgotten_loader_ends(sampler: ImageSampler, key: jax.Array) -> None:
    loader = HostLoader(sampler, key=key)
    next(loader)
    assert len(threads()) == 1
    del loader
    gc.collect()
    deadline = time.time() + 5
    while threads() and time.time() < deadline:
        time.sleep(0.01)
    assert threads() == []


def test_it_stays_only_so_far_ahead(
    sampler: ImageSampler, key: jax.Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    gather = sampler.gather_host
    monkeypatch.setattr(sampler, "gather_host", lambda draw: (calls.append(1), gather(draw))[1])
    with HostLoader(sampler, key=key, prefetch=2) as loader:
        next(loader)
        time.sleep(0.5)
        assert len(calls) <= 4  # one taken, two waiting, one in hand


@pytest.mark.parametrize("name,value", [("start_step", -1), ("steps_per_dispatch", 0), ("prefetch", 0)])
def test_doors(sampler: ImageSampler, key: jax.Array, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        HostLoader(sampler, key=key, **{name: value})
    with pytest.raises(TypeError, match="NamedSharding"):
        HostLoader(sampler, key=key, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
