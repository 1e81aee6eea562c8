"""NVAE on one device and on four: batch statistics, balance and penalty are those of the whole batch."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import nvae
from vaesr import training

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("use_cache")]
STEPS = 3


def run(devices, *, fsdp=1, parallel="jit"):
    config = dataclasses.replace(nvae.PRESETS["smoke"], batch_size=16, parallel=parallel)
    experiment = nvae.build(config)
    mesh = training.make_mesh(fsdp=fsdp, devices=jax.devices()[:devices])
    create = lambda key: training.create_state(experiment.init, experiment.players, key=key)
    shapes = jax.eval_shape(create, jax.random.key(0))
    state = jax.jit(
        create,
        out_shardings=training.state_shardings(shapes, mesh),
        compiler_options=training.quick_compile("cpu"),
    )(jax.random.key(0))
    step = training.compile_step(
        training.make_train_step(experiment.players), mesh, state=shapes, batches=experiment.sampler,
        batch_size=16, parallel=parallel,
    )  # fmt: skip
    source = (
        experiment.sampler.resident()
        if parallel == "pmap"
        else experiment.sampler.source(training.replicated(mesh))
    )
    losses = []
    for _ in range(STEPS):
        state, metrics = step(state, source)
        losses.append({name: float(np.ravel(value)[-1]) for name, value in metrics.items()})
    return losses, jax.tree.map(np.asarray, state.variables)


@pytest.fixture(scope="module")
def alone():
    return run(1)


@pytest.mark.parametrize("how", [{"fsdp": 2}, {"parallel": "pmap"}], ids=["fsdp", "pmap"])
def test_four_devices_are_one(how, alone):
    losses, variables = run(4, **how)
    for ours, theirs in zip(losses, alone[0], strict=True):
        for name in ("loss", "kl_nats", "reconstruction_nats", "spectral_norms"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, err_msg=name)
    statistics, expected = (v["nvae"]["batch_stats"] for v in (variables, alone[1]))
    # Under pmap every device has a copy.
    own = jax.tree.map(lambda a, b: a[0] if a.ndim > b.ndim else a, statistics, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4), own, expected)
