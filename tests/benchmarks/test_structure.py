"""Performance facts of the compiled training steps that are exact, and so can gate where timings cannot."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.suites import ours, train_edsr, train_vae
from vaesr.models.edsr import EDSR
from vaesr.models.vae import VAE
from vaesr.training import (
    batch_sharding,
    compile_step,
    create_state,
    make_mesh,
    make_train_step,
    state_shardings,
)

PATCH, BATCH = 8, 4
# Direct convolutions: other forms are other operations, and "auto" is free to choose them.
EDSR_TINY = EDSR(scale=2, channels=8, blocks=2, conv_form="direct")
VAE_TINY = VAE(hidden=(32,), latent=4)


def _edsr(model=EDSR_TINY):
    return (
        train_edsr.edsr_player(model),
        "edsr",
        train_edsr.edsr_params(model),
        ours.sr_batch(2, BATCH, PATCH),
    )


def _vae(model=VAE_TINY):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(0.05 * rng.standard_normal(s.shape), jnp.float32), shapes)
    images = jnp.asarray(rng.random((8, 28, 28, 1)), jnp.float32)
    return train_vae.vae_player(model), "vae", params, {"image": images}


SYSTEMS = {"edsr": _edsr, "vae": _vae}


def _step(system, *, devices=1, fsdp=1, steps_per_dispatch=1):
    """The step on a mesh, its state placed as the step wants it, and what to feed it."""
    player, name, params, batch = system
    players = {name: player}
    state = create_state(lambda _: ({name: params}, {}), players, key=jax.random.key(0))
    mesh = make_mesh(devices=jax.devices()[:devices], fsdp=fsdp)
    step = compile_step(make_train_step(players), mesh, state=state, steps_per_dispatch=steps_per_dispatch)
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


@pytest.mark.parametrize("name", SYSTEMS)
def test_whole_state_is_donated(name):
    assert _compiled(name).memory_analysis().alias_size_in_bytes == _state_bytes(name)


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
    step, state, batch = _step(_edsr(EDSR_TINY.clone(dtype=jnp.bfloat16)))
    text = step.lower(state, batch).as_text()
    assert set(_conv_results(text)) == {"bf16"}
    assert set(_conv_results(_lowered("edsr").as_text())) == {"f32"}


def _collectives(text):
    kinds = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all|collective-broadcast"
    return set(re.findall(rf"\b({kinds})(?:-start)?\(", text))


@pytest.mark.parametrize("name", SYSTEMS)
def test_data_parallel_step_only_reduces(name):
    assert _collectives(_compiled(name, devices=4).as_text()) == {"all-reduce"}
    assert _collectives(_compiled(name).as_text()) == set()


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
    player, name, params, batch = _edsr()
    c, n = EDSR_TINY.channels, EDSR_TINY.blocks
    low, high = BATCH * PATCH**2, BATCH * (2 * PATCH) ** 2
    head, tail = 2 * low * 9 * 3 * c, 2 * high * 9 * c * 3
    body = 2 * low * 9 * c * c * (2 * n + 1)
    up = 2 * low * 9 * c * 4 * c
    assert ours.step_flops(player, name, params, batch) == 3 * (head + body + up + tail) - head


def test_edsr_published_flops():
    """The paper's network at LR 48, batch 16 does 9.01 TFLOP a step."""
    model = EDSR(scale=2, channels=256, blocks=32, residual_scale=0.1, conv_form="direct")
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    pair = {"x_lr": (16, 48, 48, 3), "x_hr": (16, 96, 96, 3)}
    batch = {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in pair.items()}
    counted = ours.step_flops(train_edsr.edsr_player(model), "edsr", params, batch)
    assert counted == pytest.approx(9.01e12, rel=1e-3)


def test_edsr_flops_are_the_same_when_scanned():
    player, name, params, batch = _edsr()
    model = EDSR_TINY.clone(scan=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    scanned = ours.step_flops(train_edsr.edsr_player(model), name, shapes, batch)
    assert scanned == ours.step_flops(player, name, params, batch)


def test_vae_flops_closed_form():
    player, name, params, batch = _vae()
    size, (hidden,), latent = batch["image"].shape[0], VAE_TINY.hidden, VAE_TINY.latent
    first = 2 * size * 784 * hidden
    forward = first + 2 * size * (2 * hidden * latent + latent * hidden + hidden * 784)
    assert ours.step_flops(player, name, params, batch) == 3 * forward - first


def test_runner_chains_and_checks():
    player, name, params, batch = _vae()
    runner = ours.Runner(player, name, params, batch)
    runner.run(3)
    assert int(runner.state.step) == 3
    assert all(runner.check().values())
    before = jax.tree.map(np.array, runner.state.params)
    losses = runner.losses(2)
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]
    jax.tree.map(np.testing.assert_array_equal, before, runner.state.params)
    assert runner.memory() > 0


def test_disagreement_is_found():
    a = np.linspace(0, 1, 5)
    assert ours.agree(a, a, our_losses=[1.0], their_losses=[1.0])["passed"]
    assert not ours.agree(a, a + 1e-3, our_losses=[1.0], their_losses=[1.0])["passed"]
    assert not ours.agree(a, a, our_losses=[1.01], their_losses=[1.0])["passed"]
    assert not ours.agree(a * np.nan, a, our_losses=[1.0], their_losses=[1.0])["passed"]
