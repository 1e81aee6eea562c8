"""Two stages as one experience: train, encode, train the priors, sample; resumable at every point."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import base, stages, vq, vqvae, vqvae2
from vaesr import data, inference, reports, training
from vaesr.inference.cli import main


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One data cache for this file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def use_cache(cache, monkeypatch):
    monkeypatch.setenv("VAESR_CACHE", str(cache))


def run(module, folder, **fields):
    smoke = module.PRESETS["smoke"]
    prior = dataclasses.replace(
        smoke.prior, steps=4, eval_every=2, batch_size=4, optim=training.OptimConfig(lr=1e-3)
    )
    config = dataclasses.replace(
        smoke, workdir=folder, steps=4, eval_every=2, checkpoint_every=2, log_every=1, batch_size=4,
        eval_limit=8, optim=training.OptimConfig(lr=1e-3), **{"prior": prior, **fields},
    )  # fmt: skip
    return stages.run(module.__name__, "smoke", config, vq.plan)


def metrics_of(folder):
    return [row for row in reports.read_metrics(folder) if row["split"] == "test"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """A finished run of two levels."""
    folder = tmp_path_factory.mktemp("vqvae2") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAESR_CACHE", str(cache))
        assert run(vqvae2, folder)
    return folder


def test_a_run_leaves_every_stage(finished):
    assert {p.name for p in finished.iterdir()} >= {"codes", "prior_top", "prior_bottom", "report.html"}
    codes = data.read_codes(finished / "codes")
    assert codes.splits["train"]["codes_0"].shape[1:] == (7, 7)
    assert codes.splits["train"]["codes_1"].shape[1:] == (14, 14) and codes.levels == 2
    figures = {path.name for path in (finished / "figures").iterdir()}
    assert figures == {"1_reconstructions.png", "2_usage.png", "3_samples.png", "4_samples.png"}
    last = metrics_of(finished)[-1]
    assert {"bits_per_code_top", "bits_per_code_bottom", "code_bits_with_prior", "bits_per_dim"} <= set(last)
    first = metrics_of(finished)[0]
    assert {"mse", "pca_mse", "epoch_usage_top_percent", "perplexity_bottom"} <= set(first)
    prior = metrics_of(finished / "prior_bottom")[-1]
    assert prior["uniform_bits_per_code"] == 4 and 0 < prior["unigram_bits_per_code"] < 4.1
    # The bound counts all codes and all pixels.
    bits = 49 * last["bits_per_code_top"] + 196 * last["bits_per_code_bottom"]
    assert last["code_bits_with_prior"] == pytest.approx(bits)
    assert last["bits_per_dim"] > bits / 784


def test_a_run_killed_in_any_stage_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    assert run(vqvae, tmp_path / "whole")
    assert run(vqvae, tmp_path / "parts", only_autoencoder=True)
    assert not (tmp_path / "parts" / "codes").exists()
    original, calls = inference.CodeBits.mean, []

    def interrupted(self, params, arrays, *, limit=None):
        calls.append(limit)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, params, arrays, limit=limit)

    monkeypatch.setattr(inference.CodeBits, "mean", interrupted)
    with pytest.raises(KeyboardInterrupt):  # at the prior's second evaluation
        run(vqvae, tmp_path / "parts", resume=True)
    monkeypatch.setattr(inference.CodeBits, "mean", original)
    before = (tmp_path / "parts" / "codes" / "codes.json").stat().st_mtime_ns
    assert run(vqvae, tmp_path / "parts", resume=True)
    assert (tmp_path / "parts" / "codes" / "codes.json").stat().st_mtime_ns == before
    for stage in (".", "prior"):
        whole = training.restore_params(tmp_path / "whole" / stage, "latest")
        parts = training.restore_params(tmp_path / "parts" / stage, "latest")
        jax.tree.map(np.testing.assert_array_equal, whole[:2], parts[:2])
    ends = [metrics_of(tmp_path / name)[-1] for name in ("whole", "parts")]
    assert {**ends[0], "time": 0} == {**ends[1], "time": 0}


def test_a_finished_run_is_guarded_and_started_over(tmp_path):
    assert run(vqvae, tmp_path / "run")
    with pytest.raises(base.UserError, match="already holds a run"):
        run(vqvae, tmp_path / "run")
    assert run(vqvae, tmp_path / "run", resume=True)  # nothing left to do but the samples
    assert run(vqvae, tmp_path / "run", overwrite=True, seed=1, only_autoencoder=True)
    assert not (tmp_path / "run" / "prior").exists()


def test_sampling_from_a_run(finished, tmp_path, capsys):
    out = tmp_path / "a.npy"
    base_command = ["sample", "--run", str(finished), "-n", "3", "-o"]
    assert main([*base_command, str(out)]) == 0
    images = np.load(out)
    assert images.shape == (3, 28, 28, 1) and images.min() >= 0 and images.max() <= 1
    # The k-th image depends on the seed and k alone; classes come in turn.
    run_ = inference.load_run(finished)
    more, labels = inference.sample_images(run_, 5)
    np.testing.assert_allclose(more[:3], images, atol=1e-5)
    np.testing.assert_array_equal(labels, [0, 1, 2, 3, 4])
    assert main([*base_command, str(out), "--label", "7", "--top-k", "2", "--temperature", "0.5"]) == 0
    assert np.abs(np.load(out) - images).max() > 0
    assert main([*base_command, str(out), "--label", "10"]) == 2
    assert "label must be one of the priors' classes (0 to 9), got 10" in capsys.readouterr().err


def test_encoding_and_decoding_with_a_run(finished, tmp_path, capsys):
    codes, back = tmp_path / "codes.npz", tmp_path / "back.npy"
    command = ["encode", "--run", str(finished), "-o"]
    assert main([*command, str(codes), "--data", "embedded:digits"]) == 0
    assert "codes_0 [500, 7, 7], codes_1 [500, 14, 14]" in capsys.readouterr().out
    content = np.load(codes)
    assert content["codes_0"].dtype == np.uint8 and set(content["label"]) == set(range(10))
    kept = data.read_codes(finished / "codes")
    np.testing.assert_array_equal(np.sort(kept.splits["test"]["label"]), np.sort(content["label"]))
    assert main([*command, str(back), "--decode", str(codes)]) == 0
    run_ = inference.load_run(finished)
    pixels = data.open_bank("embedded:digits").pixels[:1].astype(np.float32) / 255
    again = inference.decode_maps(run_, inference.encode_maps(run_, pixels))
    direct = np.clip(np.asarray(run_.apply(pixels).reconstruction), 0, 1)
    np.testing.assert_allclose(again, direct, atol=1e-5)
    top = inference.decode_maps(run_, inference.encode_maps(run_, pixels), keep=1)
    assert np.abs(top - direct).max() > 0
    with pytest.raises(ValueError, match="code maps must be"):
        inference.decode_maps(run_, inference.encode_maps(run_, pixels)[:1])


def test_rejection_keeps_what_the_classifier_is_surest_of():
    images = np.zeros((6, 1, 1, 1))
    labels = np.array([0, 0, 0, 1, 1, 1])
    log_probs = np.log(np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5], [0.9, 0.1], [0.3, 0.7], [0.2, 0.8]]))
    kept = inference.reject_samples(images, labels, lambda _: log_probs, 0.5)
    np.testing.assert_array_equal(kept, [1, 2, 4, 5])
    np.testing.assert_array_equal(inference.reject_samples(images, labels, lambda _: log_probs, 0.1), [1, 5])
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\], got 0"):
        inference.reject_samples(images, labels, lambda _: log_probs, 0)


def test_wrong_settings_are_sentences(tmp_path):
    smoke = vqvae.PRESETS["smoke"]
    with pytest.raises(ValueError, match="--tile must be at least 1, got 0"):
        dataclasses.replace(smoke, tile=0)
    with pytest.raises(ValueError, match="--beta must be at least 0 and --temperature above 0"):
        dataclasses.replace(smoke, temperature=0.0)
    with pytest.raises(ValueError, match=r"--prior\.steps must be at least 1, got 0"):
        vq.PriorConfig(steps=0)
    with pytest.raises(base.UserError, match="28"):  # 28 pixels can't be halved three times
        run(vqvae, tmp_path / "odd", model=dataclasses.replace(smoke.model, factor=8))
    with pytest.raises(FileNotFoundError, match="has no finished prior to sample from"):
        run(vqvae, tmp_path / "half", only_autoencoder=True)
        inference.load_priors(inference.load_run(tmp_path / "half"))
