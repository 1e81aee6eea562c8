"""The torch peers compute what our models compute."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled_variables import filled

import experiments
from benchmarks import banks, peers, trainings
from benchmarks.options import Options
from benchmarks.suites import input, sample, train, vq
from vaesr.models.edsr import EDSR

torch = pytest.importorskip("torch")

from benchmarks.peers import torch_common, torch_input, torch_sr, torch_vae  # noqa: E402

# Trainings that no peer does: a gradient of ours, a prior in another form, one that sees other code maps.
ALONE = {"vae dreg", "vqvae prior", "vqvae2 prior_bottom"}
FILES = {
    path.stem.removeprefix("torch_") for path in pathlib.Path(next(iter(peers.__path__))).glob("torch_*.py")
}
PRESETS = [
    trainings.preset_name(short, name)
    for module in experiments.discover()
    if (short := module.__name__.rpartition(".")[2]) in FILES
    for name in trainings.bench_presets(module, accelerator=False)
]
SMOKE = Options(smoke=True, peers=("torch",), threads=1)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_edsr_outputs_agree(scale):
    model = EDSR(scale=scale, channels=8, blocks=2, residual_scale=0.1)
    x = np.random.default_rng(0).random((2, 6, 6, 3), np.float32)
    params = filled(model, jnp.asarray(x))["params"]
    network = torch_sr.load(torch_sr.counterpart(model), params)
    with torch.no_grad():
        theirs = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy().transpose(0, 2, 3, 1)
    ours = model.apply({"params": params}, jnp.asarray(x))
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_training_agrees(name):
    count = 0
    for case in train.cases(Options(smoke=True, peers=("torch",), threads=1, models=(name,))):
        count += 1
        alone = case.name.partition(":")[0] in ALONE
        assert alone or case.parity["passed"], case.parity
        assert {side.framework for side in case.sides} == ({"vaesr"} if alone else {"vaesr", "torch"})
        for side in case.sides:
            side.run(1)
            assert all(side.check().values())
    assert count


@pytest.mark.slow
@pytest.mark.parametrize("suite", [vq, sample])
def test_suites_without_peers_run(suite):
    for case in suite.cases(Options(smoke=True, threads=1)):
        assert case.parity is None or case.parity["passed"]
        for side in case.sides:
            side.run(2)
            assert side.check is None or all(side.check().values())


@pytest.mark.slow
def test_samples_agree(monkeypatch):
    # Statistics that are not those of an untrained network.
    fill = trainings._fill
    uneven = lambda rng, path, leaf: fill(rng, path, leaf) + (0.1 if path[-1].key in ("mean", "var") else 0.0)
    monkeypatch.setattr(trainings, "_fill", uneven)
    (case,) = sample.cases(dataclasses.replace(SMOKE, models=("nvae.bench",)))
    assert case.parity["passed"], case.parity
    assert {side.framework for side in case.sides} == {"vaesr", "torch"}
    for side in case.sides:
        side.run(1)
        assert all(side.check().values())


def test_what_can_be_sampled_is_named():
    assert {"priors", "vae", "nvae", "nvae.bench"} <= set(sample.names())
    assert not {"edsr", "vqvae.bench"} & set(sample.names())


@pytest.mark.slow
def test_inputs_agree():
    for case in input.cases(SMOKE):
        assert case.parity["passed"], case.parity
        for side in case.sides:
            side.run(2)
            if side.close is not None:
                side.close()


def test_torch_pairs_match_their_reduction(tmp_path):
    bank = banks.make_bank(tmp_path, [(40, 50), (60, 44)], 3)
    draw = torch_input.pair_loader(
        [bank.image(i) for i in range(2)], patch=6, scale=2, batch_size=3, workers=0
    )
    x_lr, x_hr = draw(2)
    assert x_lr.shape == (3, 3, 6, 6)
    assert x_hr.shape == (3, 3, 12, 12)
    # On the 8-bit grid, as our pairs are.
    np.testing.assert_allclose(255 * x_lr.numpy(), np.round(255 * x_lr.numpy()), atol=1e-4)


def test_noise_is_what_the_step_draws():
    noise = torch_vae.vae_noise(jax.random.key(3), 2, 4, 5)
    assert noise.shape == (1, 4, 5)
    other = torch_vae.vae_noise(jax.random.key(3), 3, 4, 5)
    assert not np.allclose(noise, other)
    # An example's noise does not depend on the batch around it.
    np.testing.assert_array_equal(noise[:, :2], torch_vae.vae_noise(jax.random.key(3), 2, 2, 5))


@pytest.mark.slow
def test_exact_restores_its_settings():
    before = torch.backends.cudnn.allow_tf32
    with torch_common.exact():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
