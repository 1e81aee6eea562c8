"""Two stages as one experience: train, encode, train the priors, sample; resumable at every point."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import vqvae
from experiments.recipes import codes
from vaesr import evaluators, inference, runs, training


def run(module, folder, **fields):
    smoke = module.PRESETS["smoke"]
    prior = dataclasses.replace(
        smoke.prior, steps=4, eval_every=2, batch_size=4, optim=training.OptimConfig(lr=1e-3)
    )
    config = dataclasses.replace(
        smoke, workdir=folder, steps=4, eval_every=2, checkpoint_every=2, log_every=1, batch_size=4,
        eval_limit=8, optim=training.OptimConfig(lr=1e-3), **{"prior": prior, **fields},
    )  # fmt: skip
    return runs.run(module.__name__, "smoke", config, codes.build)


@pytest.mark.slow
def test_a_run_goes_on_from_any_stage_and_is_guarded(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    assert run(vqvae, folder, only_autoencoder=True)
    assert not (folder / "codes").exists()
    with pytest.raises(FileNotFoundError, match="has no finished prior to sample from"):
        inference.load_priors(runs.load_run(folder))
    original, calls = evaluators.CodeBits.per_code, []

    def interrupted(self, params, arrays, *, limit=None):
        calls.append(limit)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, params, arrays, limit=limit)

    monkeypatch.setattr(evaluators.CodeBits, "per_code", interrupted)
    with pytest.raises(KeyboardInterrupt):  # at the prior's second evaluation
        run(vqvae, folder, resume=True)
    monkeypatch.setattr(evaluators.CodeBits, "per_code", original)
    before = (folder / "codes" / "codes.json").stat().st_mtime_ns
    autoencoder = training.restore_params(folder, "latest")
    assert run(vqvae, folder, resume=True)
    assert (folder / "codes" / "codes.json").stat().st_mtime_ns == before
    jax.tree.map(np.testing.assert_array_equal, autoencoder, training.restore_params(folder, "latest"))
    assert training.restore_params(folder / "prior", "latest")[2] == 4
    with pytest.raises(runs.UserError, match="already holds a run"):
        run(vqvae, folder)
    flipped = folder / "codes" / "train-codes_0.npy"
    whole = flipped.read_bytes()
    flipped.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert run(vqvae, folder, resume=True)  # nothing left to do but the codes and the samples
    assert flipped.read_bytes() == whole
    index = folder / "codes" / "codes.json"
    kept = index.read_text()
    index.write_text("{")
    with pytest.raises(runs.UserError, match="doesn't say any more what made it: put a copy back, or delete"):
        run(vqvae, folder, resume=True)
    index.write_text(kept.replace('"step": 4', '"step": 3'))
    with pytest.raises(runs.UserError, match="was trained on codes of an earlier autoencoder"):
        run(vqvae, folder, resume=True)
    assert run(vqvae, folder, overwrite=True, seed=1, only_autoencoder=True)
    assert not (folder / "prior").exists()


def test_rejection_keeps_what_the_classifier_is_surest_of():
    images = np.zeros((6, 1, 1, 1))
    labels = np.array([0, 0, 0, 1, 1, 1])
    log_probs = np.log(np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5], [0.9, 0.1], [0.3, 0.7], [0.2, 0.8]]))
    kept = inference.reject_samples(images, labels, lambda _: log_probs, 0.5)
    np.testing.assert_array_equal(kept, [1, 2, 4, 5])
    np.testing.assert_array_equal(inference.reject_samples(images, labels, lambda _: log_probs, 0.1), [1, 5])
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\], got 0"):
        inference.reject_samples(images, labels, lambda _: log_probs, 0)


@pytest.mark.slow
def test_wrong_settings_are_sentences(tmp_path):
    smoke = vqvae.PRESETS["smoke"]
    with pytest.raises(ValueError, match="--tile must be at least 1, got 0"):
        dataclasses.replace(smoke, tile=0)
    with pytest.raises(ValueError, match="--beta must be at least 0 and --temperature above 0"):
        dataclasses.replace(smoke, temperature=0.0)
    with pytest.raises(ValueError, match=r"--prior\.steps must be at least 1, got 0"):
        codes.PriorConfig(steps=0)
    with pytest.raises(runs.UserError, match="28"):  # 28 pixels can't be halved three times
        run(vqvae, tmp_path / "odd", model=dataclasses.replace(smoke.model, factor=8))
