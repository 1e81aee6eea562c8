"""Performance facts of the compiled training steps that are exact, and so can gate where timings cannot."""

import dataclasses
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import experiments
from benchmarks import steps, trainings
from experiments import edsr, vae
from vaesr.models.edsr import EDSR
from vaesr.training import batch_sharding, compile_step, create_state, make_mesh, state_shardings

PATCH, BATCH = 8, 4
KEY = jax.random.key(0)
# Direct convolutions: other forms are other operations, and "auto" is free to choose them.
EDSR_TINY = EDSR(scale=2, channels=8, blocks=2, conv_form="direct")
VAE_TINY = vae.VAE(hidden=(32,), latent=4)


@functools.cache
def _edsr(model=EDSR_TINY, **changes):
    config = edsr.PRESETS["bench"]
    config = dataclasses.replace(config, model=model, patch=PATCH, batch_size=BATCH, **changes)
    return _only(edsr, config)


@functools.cache
def _vae():
    config = dataclasses.replace(
        vae.PRESETS["bench"], data="random:64x28x28x1", model=VAE_TINY, batch_size=8
    )  # fmt: skip
    return _only(vae, config)


def _only(module, config):
    (trained,) = trainings.trainings(module, "", config, pathlib.Path())
    return trained


SYSTEMS = {"edsr": _edsr, "vae": _vae}
MODULES = {module.__name__.rpartition(".")[2]: module for module in experiments.discover()}


def _shapes(config):
    """EDSR's training without a number of it."""
    experiment = edsr.build(config)
    state = jax.eval_shape(lambda key: create_state(experiment.init, experiment.players, key=key), KEY)
    sides = {"x_lr": config.patch, "x_hr": config.patch * config.scale}
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, side, side, 3), jnp.float32)
        for name, side in sides.items()
    }
    return trainings.Training("", config, "", edsr.build, experiment, state, batch)


def _step(trained, *, devices=1, fsdp=1, steps_per_dispatch=1):
    """The step on a mesh, its state placed as the step wants it, and what to feed it."""
    state, batch = trained.state, trained.batch
    mesh = make_mesh(devices=jax.devices()[:devices], fsdp=fsdp)
    step = compile_step(trained.step, mesh, state=state, steps_per_dispatch=steps_per_dispatch)
    several = steps_per_dispatch > 1
    if several:
        batch = jax.tree.map(lambda x: jnp.stack([x] * steps_per_dispatch), batch)
    # Copied: the state is donated.
    state = jax.device_put(jax.tree.map(jnp.copy, state), state_shardings(state, mesh))
    return step, state, jax.device_put(batch, batch_sharding(mesh, leading=int(several)))


@functools.cache
def _lowered(name, **how):
    step, state, batch = _step(SYSTEMS[name](), **how)
    return step.lower(state, batch)


@functools.cache
def _compiled(name, **how):
    return _lowered(name, **how).compile()


def _state_bytes(name):
    _, state, _ = _step(SYSTEMS[name]())
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def _conv_results(text):
    """The element type of every convolution's result in StableHLO."""
    lines = [line for line in text.splitlines() if "stablehlo.convolution(" in line]
    return [re.search(r"-> tensor<[\dx]*x(\w+)>", line).group(1) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_whole_state_is_donated(name):
    assert _compiled(name).memory_analysis().alias_size_in_bytes == _state_bytes(name)


@pytest.mark.slow
def test_whole_state_is_donated_when_scanned():
    compiled = _compiled("vae", steps_per_dispatch=4)
    assert compiled.memory_analysis().alias_size_in_bytes == _state_bytes("vae")


@pytest.mark.parametrize("name", SYSTEMS)
def test_one_compilation_for_five_steps(name):
    step, state, batch = _step(SYSTEMS[name]())
    for _ in range(5):
        state, _ = step(state, batch)
    assert step._cache_size() == 1
    assert int(state.step) == 5


@pytest.mark.parametrize("name", SYSTEMS)
def test_device_never_waits_for_the_host(name):
    text = _compiled(name).as_text()
    assert not re.search(r"infeed|outfeed|callback|\b(send|recv)(-done)?\(", text)


def test_edsr_convolution_count():
    # Forward, by kernel and by input for each layer; the images need no gradient.
    layers = 2 * EDSR_TINY.blocks + 4
    assert len(_conv_results(_lowered("edsr").as_text())) == 3 * layers - 1


def test_bfloat16_step_convolves_in_bfloat16():
    step, state, batch = _step(_edsr(dtype="bfloat16"))
    text = step.lower(state, batch).as_text()
    assert set(_conv_results(text)) == {"bf16"}
    assert set(_conv_results(_lowered("edsr").as_text())) == {"f32"}


def _collectives(text):
    kinds = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all|collective-broadcast"
    return set(re.findall(rf"\b({kinds})(?:-start)?\(", text))


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_data_parallel_step_only_reduces(name):
    assert _collectives(_compiled(name, devices=4).as_text()) == {"all-reduce"}
    assert _collectives(_compiled(name).as_text()) == set()


@pytest.mark.slow
def test_fsdp_step_gathers_parameters():
    kinds = _collectives(_compiled("vae", devices=4, fsdp=4).as_text())
    assert "all-gather" in kinds
    assert kinds & {"all-reduce", "reduce-scatter"}
    assert "all-to-all" not in kinds


def test_fsdp_state_is_split():
    split = _compiled("vae", devices=4, fsdp=4).memory_analysis().alias_size_in_bytes
    # The two large matrices and their moments are quartered; biases and the small matrices are not.
    large = 3 * 2 * 784 * 32 * 4
    assert split == _state_bytes("vae") - large + large // 4


def test_edsr_flops_closed_form():
    c, n = EDSR_TINY.channels, EDSR_TINY.blocks
    low, high = BATCH * PATCH**2, BATCH * (2 * PATCH) ** 2
    head, tail = 2 * low * 9 * 3 * c, 2 * high * 9 * c * 3
    body = 2 * low * 9 * c * c * (2 * n + 1)
    up = 2 * low * 9 * c * 4 * c
    assert steps.step_flops(_edsr()) == 3 * (head + body + up + tail) - head


@pytest.mark.slow
def test_edsr_published_flops():
    """The paper's network at LR 48, batch 16 does 9.01 TFLOP a step."""
    counted = steps.step_flops(_shapes(edsr.PRESETS["bench_paper_accelerator"]))
    assert counted == pytest.approx(9.01e12, rel=1e-3)


@pytest.mark.parametrize(
    "how", [{"scan": True}, {"remat": True}, {"conv_form": "winograd"}, {"conv_form": "auto"}]
)
def test_edsr_flops_are_the_same_in_any_form(how):
    # So many channels that CPUs have other forms of the convolution.
    model = EDSR_TINY.clone(channels=16)
    direct, other = (dataclasses.replace(_edsr().config, model=model.clone(**own)) for own in ({}, how))
    assert steps.step_flops(_shapes(other)) == steps.step_flops(_shapes(direct))


def test_vae_flops_closed_form():
    trained = _vae()
    size, (hidden,), latent = trained.batch["image"].shape[0], VAE_TINY.hidden, VAE_TINY.latent
    first = 2 * size * 784 * hidden
    forward = first + 2 * size * (2 * hidden * latent + latent * hidden + hidden * 784)
    assert steps.step_flops(trained) == 3 * forward - first


@pytest.mark.slow
def test_runner_chains_and_checks():
    runner = steps.Runner(_vae())
    runner.run(3)
    assert int(runner.state.step) == 3
    found = runner.check()
    assert set(found) == {"loss_finite", "no_update_skipped", "output_changed", "state_donated"}
    assert all(found.values())
    before = jax.tree.map(np.array, runner.state.params)
    losses = runner.losses(2)
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]
    jax.tree.map(np.testing.assert_array_equal, before, runner.state.params)
    assert runner.memory() > 0


@pytest.mark.slow
def test_runner_draws_its_data():
    runner = steps.Runner(_vae(), with_data=True, steps_per_dispatch=3)
    # Step 0 draws the batch that is measured alone.
    np.testing.assert_allclose(runner.losses(1)[0], steps.Runner(_vae()).losses(1)[0], rtol=1e-6)
    runner.run(2)
    assert int(runner.state.step) == 6
    assert all(runner.check().values())


@pytest.mark.parametrize("name", MODULES)
def test_every_experiment_is_measured_on_any_device(name):
    for accelerator in (False, True):
        presets = trainings.bench_presets(MODULES[name], accelerator=accelerator)
        assert "" in presets
        assert all(config.data.startswith("random:") for config in presets.values())
        for config in presets.values():
            small = trainings.shrunk(config)
            assert small.batch_size <= 4
            assert trainings.shrunk(small) == small


def test_accelerator_presets_stand_in_or_come_too():
    found = [trainings.bench_presets(edsr, accelerator=accelerator) for accelerator in (False, True)]
    assert [sorted(presets) for presets in found] == [[""], ["", "paper"]]
    assert [presets[""] for presets in found] == [edsr.PRESETS[f"bench{end}"] for end in ("", "_accelerator")]
    assert {"edsr", "edsr.bench", "edsr.bench_paper", "vae.bench_iwae"} <= set(trainings.names())


@pytest.mark.slow
def test_stages_go_on_from_those_before(tmp_path):
    module = MODULES["vqvae2"]
    config = trainings.shrunk(module.PRESETS["bench"])
    found = {trained.folder: trained for trained in trainings.trainings(module, "", config, tmp_path)}
    assert list(found) == ["", "prior_top", "prior_bottom"]
    assert found["prior_bottom"].title == "vqvae2 prior_bottom"
    assert {"codes", "condition_0"} <= set(found["prior_bottom"].batch)
    # No warm start: every stage has numbers of its own.
    assert all(int(trained.state.step) == 0 for trained in found.values())


def test_disagreement_is_found():
    a = np.linspace(0, 1, 5)
    assert steps.agree(a, a, our_losses=[1.0], their_losses=[1.0])["passed"]
    assert not steps.agree(a, a + 1e-3, our_losses=[1.0], their_losses=[1.0])["passed"]
    assert not steps.agree(a, a, our_losses=[1.01], their_losses=[1.0])["passed"]
    assert not steps.agree(a * np.nan, a, our_losses=[1.0], their_losses=[1.0])["passed"]
