"""NVAE in use: samples, codes that are noise, readjusted statistics; of a run and of the authors' file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from written_runs import write_run

from vaesr import inference
from vaesr.app import cli
from vaesr.models.nvae import NVAE
from vaesr.models.vae import VAE
from vaesr.pretrained import write_checkpoint, write_network
from vaesr.runs import load_run

MODEL = NVAE((12, 12, 1), 4, (1, 1), 2, 1, 1, 1, 1, padding=0, remat="none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "nvae", "nvae", MODEL, jnp.zeros((1, 12, 12, 1)))


@pytest.mark.slow
def test_statistics_settle_on_those_of_samples(folder):
    run = load_run(folder)
    new = inference.readjust(run, 0.5, passes=150, batch_size=32)
    kept = list((folder / "statistics").glob("*.npz"))
    assert len(kept) == 1
    own, old = new.collections["batch_stats"], run.collections["batch_stats"]
    # What the encoder normalises is not among samples.
    jax.tree.map(np.testing.assert_array_equal, own["encoder_0"], old["encoder_0"])
    # The first normalisation after the top group's latents sees what samples have there.
    noise = 0.5 * jax.random.normal(jax.random.key(7), (2000, MODEL.latent))
    find = functools.partial(MODEL.apply, new.collections, noise, True, method="mean_image", mutable=True)
    _, moved = jax.jit(find)()
    moment = moved["batch_stats"]["ups_0"]["norm_0"]["mean"]
    # Twenty times the difference of one step, of which a twentieth is taken.
    there = own["ups_0"]["norm_0"]["mean"] + 20 * (moment - own["ups_0"]["norm_0"]["mean"])
    spread = np.sqrt(np.asarray(own["ups_0"]["norm_0"]["var"]))
    assert (np.abs(there - own["ups_0"]["norm_0"]["mean"]) < 0.2 * spread).all()
    # Kept with the run, and of these weights, temperature and passes alone.
    again = inference.readjust(load_run(folder), 0.5, passes=150, batch_size=32)
    jax.tree.map(np.testing.assert_array_equal, again.collections["batch_stats"], own)
    kept[0].write_bytes(b"nothing")
    anew = inference.readjust(load_run(folder), 0.5, passes=150, batch_size=32)
    jax.tree.map(np.testing.assert_array_equal, anew.collections["batch_stats"], own)


def test_bad_knobs(folder, tmp_path):
    run = load_run(folder)
    for knobs in ({"passes": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="passes and batch_size at least 1"):
            inference.readjust(run, 1.0, **knobs)
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        inference.readjust(run, float("nan"))
    plain = VAE(hidden=(8,), latent=2)
    vae = load_run(write_run(tmp_path / "vae", "vae", plain, jnp.zeros((1, 28, 28, 1))))
    with pytest.raises(ValueError, match="holds the network VAE, which has no batch statistics"):
        inference.readjust(vae, 1.0)
    with pytest.raises(ValueError, match="holds the network VAE; this needs one that tells its noise"):
        inference.encode_noise(vae, np.zeros((1, 28, 28, 1)))
    with pytest.raises(ValueError, match="encode_noise gives them"):
        inference.encode(run, np.zeros((1, 12, 12, 1)))


def test_from_the_command_line(folder, tmp_path, capsys):
    run = load_run(folder)
    arguments = ["--run", str(folder), "-n", "5", "--temperature", "0.7", "-o", str(tmp_path / "a.npy")]
    assert cli.main(["sample", *arguments]) == 0
    assert cli.main(["sample", *arguments[:-1], str(tmp_path / "b.npy"), "--readjust", "3"]) == 0
    first, second = (np.load(tmp_path / f"{name}.npy") for name in "ab")
    assert first.shape == second.shape == (5, 12, 12, 1) and np.abs(first - second).max() > 1e-4
    np.testing.assert_allclose(first, inference.sample(run, 5, temperature=0.7), atol=1e-6)

    images = (np.random.default_rng(0).random((9, 12, 12)) * 255).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    codes = str(tmp_path / "codes.npz")
    words = ["encode", "--run", str(folder), "-o", codes, "--split", "all", "--data"]
    assert cli.main([*words, f"npy:{tmp_path / 'images.npy'}"]) == 0
    with np.load(codes) as found:
        assert found["noise"].shape == (9, MODEL.latent)
    back = str(tmp_path / "back.npy")
    assert cli.main(["encode", "--run", str(folder), "--decode", codes, "-o", back]) == 0
    expected = run.apply(images[..., None].astype(np.float32) / 255, method="reconstruct")
    np.testing.assert_allclose(np.load(back), expected, atol=1e-3)
    assert "noise [9," in capsys.readouterr().out


def test_of_the_authors_checkpoint(folder, tmp_path):
    run = load_run(folder)
    state = write_network(run.model, run.params["nvae"], "nvae", run.variables["nvae"])
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(write_checkpoint(file, state, wrapper="state_dict"))
    assert cli.main(["sample", "--run", str(file), "-n", "3", "-o", str(tmp_path / "a.npy")]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), inference.sample(run, 3), atol=1e-5)
    read = inference.load_network(file)
    assert read.config["origin"]["network"] == "NVAE"
    with pytest.raises(ValueError, match="upscaling needs a super-resolution network"):
        inference.bind_upscaler(read)
