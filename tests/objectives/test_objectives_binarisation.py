"""The four ways from grey to binary images, and what each draw depends on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import data, evaluators
from vaesr.objectives import BernoulliLikelihood, binarise_batch, elbo


def _batch(indices, grey: float = 0.5) -> dict[str, jax.Array]:
    indices = jnp.asarray(indices)
    return {
        "image": jnp.full((len(indices), 8, 8, 1), grey),
        "position": jnp.arange(len(indices)),
        "index": indices,
    }


def _bits(how: str, batch, seed: int = 0) -> np.ndarray:
    return np.asarray(binarise_batch(batch, binarisation=how, key=jax.random.key(seed)))


def test_fixed_bits_depend_on_the_image_alone():
    first = _bits("fixed", _batch([5, 9, 7]))
    again = _bits("fixed", _batch([7, 5]), seed=1)  # another step, another place in another batch
    np.testing.assert_array_equal(first[[2, 0]], again)
    assert (first[0] != first[1]).any()
    assert set(np.unique(first)) == {0.0, 1.0}


def test_dynamic_bits_are_drawn_anew_at_every_step():
    batch = _batch([5, 9])
    assert (_bits("dynamic", batch) != _bits("dynamic", batch, seed=1)).any()
    other = {**batch, "index": batch["index"] + 1}
    np.testing.assert_array_equal(_bits("dynamic", batch), _bits("dynamic", other))


@pytest.mark.parametrize("how", ["dynamic", "fixed"])
def test_bits_have_the_mean_of_the_grey_value(how):
    bits = _bits(how, _batch(np.arange(1000), grey=0.3))
    assert abs(bits.mean() - 0.3) < 4 * np.sqrt(0.21 / bits.size)


def test_fixed_bits_do_not_hang_on_the_last_bit_of_a_grey_value():
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    near = [np.nextafter(levels, np.float32(side)) for side in (0, 2)]
    batches = ({"image": jnp.tile(x[:, None], (1, 500)), "index": jnp.arange(256)} for x in (levels, *near))
    same, lower, upper = (_bits("fixed", batch) for batch in batches)
    np.testing.assert_array_equal(same, lower)
    np.testing.assert_array_equal(same, upper)
    assert same[0].max() == 0 and same[255].min() == 1


def test_threshold_and_none():
    batch = {"image": jnp.array([[0.0, 0.5, 0.500001, 1.0]], jnp.float32)}
    np.testing.assert_array_equal(_bits("threshold", batch), [[0, 0, 1, 1]])
    np.testing.assert_array_equal(_bits("none", batch), batch["image"])


def test_mistakes_are_sentences():
    with pytest.raises(ValueError, match="must be one of none, dynamic, fixed, threshold, got 'static'"):
        _bits("static", _batch([0]))
    with pytest.raises(ValueError, match=r'"fixed" needs batch\["index"\].*image'):
        _bits("fixed", {"image": jnp.zeros((1, 2))})


def test_the_objective_sees_the_bits(key):
    """An encoder that puts its input into the KL."""
    encode = lambda params, x: (x.reshape(x.shape[0], -1), jnp.zeros((x.shape[0], 64)))
    decode = lambda params, z: jnp.zeros((z.shape[0], 8, 8, 1))
    batch = _batch([3, 4], grey=0.6)
    for how in ("none", "threshold", "fixed"):
        objective = jax.jit(elbo(encode, decode, BernoulliLikelihood(), binarisation=how))
        _, aux = objective({"vae": None}, {}, batch, key=key, step=0)
        expected = 0.5 * (_bits(how, batch) ** 2).sum() / 2
        np.testing.assert_allclose(aux.metrics["kl_nats"], expected, rtol=1e-5)


def test_training_and_evaluation_see_the_same_fixed_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (60, 4, 4, 1), np.uint8))
    bank = data.open_bank(f"npy:{tmp_path / 'x.npy'}")
    sampler = data.ImageSampler(bank, "train", 8)
    fixed = functools.partial(binarise_batch, binarisation="fixed")
    seen: dict[int, np.ndarray] = {}
    batches = jax.jit(functools.partial(sampler, position=jnp.arange(8)))
    for step in range(2 * sampler.size // 8 + 1):
        batch = batches(sampler.source(), key=jax.random.key(3), step=jnp.int32(step))
        bits = np.asarray(fixed(batch, key=jax.random.key(step)))
        for index, image, binary in zip(np.asarray(batch["index"]), batch["image"], bits, strict=True):
            np.testing.assert_allclose(image, bank.pixels[index] / np.float32(255), rtol=1e-6)
            np.testing.assert_array_equal(seen.setdefault(int(index), binary), binary)
    assert set(seen) == set(bank.split("train").tolist())
    for batch in evaluators.split_batches(bank, "train"):
        bits = np.asarray(evaluators.measured_images(batch, binarisation="fixed"))
        for index, binary, held in zip(batch["index"], bits, batch["mask"], strict=True):
            if held:
                np.testing.assert_array_equal(seen[int(index)], binary)
