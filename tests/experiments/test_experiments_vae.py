"""The VAE experiment's objectives and its several latent layers, in runs of a few steps."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import vae
from vaesr import evaluators, inference, reports, runs, training
from vaesr.runs.folder import with_stored

DREG = vae.ObjectiveConfig(kind="iwae", samples=3, gradient="dreg")
LAYERS = {"model": vae.VAE(latent=4, hidden=(16,)), "upper": vae.UpperConfig(latents=(3,), hidden=(8,))}
SYSTEMS = {
    "dreg": {"objective": DREG},
    "two_layers": {**LAYERS, "objective": vae.ObjectiveConfig(kind="iwae", samples=3)},
    "top_down": {**LAYERS, "upper": dataclasses.replace(LAYERS["upper"], inference="top_down")},
    "stl": {"objective": vae.ObjectiveConfig(gradient="stl")},
}


def smoke(workdir, **fields):
    fields = {"optim": training.OptimConfig(name="sgd", lr=1e-4), "batch_size": 8, "log_every": 1, **fields}
    config = dataclasses.replace(
        vae.PRESETS["smoke"], workdir=workdir, eval_every=4, checkpoint_every=2, eval_limit=16, **fields
    )
    assert runs.run("experiments.vae", "smoke", config, vae.build)
    return [row for row in reports.read_metrics(workdir) if row["split"] == "train"]


@pytest.mark.slow
def test_a_resumed_run_of_several_layers_equals_the_straight_one(tmp_path):
    smoke(tmp_path / "whole", steps=4, **SYSTEMS["two_layers"])
    smoke(tmp_path / "parts", steps=2, **SYSTEMS["two_layers"])
    smoke(tmp_path / "parts", steps=4, resume=True, **SYSTEMS["two_layers"])
    straight, _, _ = training.restore_params(tmp_path / "whole", "latest")
    resumed, _, step = training.restore_params(tmp_path / "parts", "latest")
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, straight, resumed)


@pytest.mark.slow
def test_a_run_from_before_a_field_existed_goes_on(tmp_path):
    smoke(tmp_path, steps=2)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    del content["config"]["objective"]["gradient"], content["config"]["optim"]["stages"]
    path.write_text(json.dumps(content))
    with pytest.raises(runs.UserError, match=r"objective\.gradient: 'pathwise' -> 'stl'"):
        smoke(tmp_path, steps=4, resume=True, **SYSTEMS["stl"])
    smoke(tmp_path, steps=4, resume=True)
    assert training.restore_params(tmp_path, "latest")[2] == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dreg", "stl", "top_down"])
def test_a_split_batch_and_state_give_the_same_losses(name, tmp_path):
    whole = smoke(tmp_path / "whole", steps=2, **SYSTEMS[name])
    split = smoke(tmp_path / "split", steps=2, accumulate=2, fsdp=2, **SYSTEMS[name])
    np.testing.assert_allclose([r["loss"] for r in split], [r["loss"] for r in whole], rtol=1e-5)


@pytest.mark.slow
def test_a_run_of_several_layers_is_scored_drawn_and_sampled(tmp_path):
    smoke(tmp_path, steps=4, **SYSTEMS["two_layers"])
    rows = {row["split"]: row for row in reports.read_metrics(tmp_path)}
    assert rows["validation"]["bound_3_nats"] > rows["validation"]["elbo_nats"]
    assert rows["test"]["bound_5_nats"] > rows["test"]["elbo_nats"]
    names = {path.name for path in (tmp_path / "figures").glob("*.png")}
    assert names == {"1_samples.png", "2_reconstructions.png"}
    described = json.loads((tmp_path / "config.json").read_text())["model"]
    assert described["class"] == "HierarchicalVAE" and described["fields"]["latents"] == [4, 3]
    run = runs.load_run(tmp_path)
    assert inference.sample(run, 3).shape == (3, 28, 28, 1)
    with pytest.raises(ValueError, match="several latent layers"):
        inference.encode(run, np.zeros((1, 28, 28, 1), np.float32))


@pytest.mark.parametrize("binarisation, drawings", [("dynamic", 8), ("threshold", 1)])
def test_the_test_split_is_drawn_eight_times_where_bits_are_drawn(binarisation, drawings, monkeypatch):
    used = []
    monkeypatch.setattr(evaluators, "mean_bounds", lambda *_, **how: used.append(how) or {})
    monkeypatch.setattr(evaluators, "posteriors", lambda *_, **how: (np.zeros((3, 4)), None))
    smoke = vae.PRESETS["smoke"]
    objective = dataclasses.replace(smoke.objective, binarisation=binarisation)
    system = vae.build(dataclasses.replace(smoke, data="random:99x8x8x1", objective=objective))
    system.evaluate({"vae": {}}, {})
    system.evaluate_test({"vae": {}}, {})
    found = [(how.get("drawings", 1), how.get("errors", False)) for how in used]
    assert found == [(1, False), (drawings, True)]


def test_presets_of_the_paper_have_its_stages_and_networks():
    paper, two = vae.PRESETS["iwae_paper"], vae.PRESETS["iwae_paper_2layer"]
    schedule = training.make_schedule(paper.optim, steps=paper.steps)
    epoch = 54_000 // paper.batch_size
    assert paper.steps == 3280 * epoch
    np.testing.assert_allclose([schedule(0), schedule(epoch - 1)], 1e-3, rtol=1e-5)
    np.testing.assert_allclose(schedule(epoch), 1e-3 * 10 ** (-1 / 7), rtol=1e-5)
    np.testing.assert_allclose(schedule(paper.steps - 1), 1e-4, rtol=1e-5)
    shapes = jax.eval_shape(vae._model(two, (28, 28, 1)).init, jax.random.key(0), np.zeros((1, 28, 28, 1)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 521_084


UPPER = vae.UpperConfig(latents=(3,))


@pytest.mark.parametrize(
    ("fields", "objective", "message"),
    [
        ({}, {"gradient": "dreg"}, "--objective.gradient dreg needs --objective.kind iwae"),
        ({"upper": UPPER, "model": vae.VAE(architecture="conv")}, {}, "--upper.latents needs --model.archit"),
        ({"upper": UPPER}, {"gradient": "stl"}, "needs --objective.gradient pathwise"),
    ],
)
def test_combinations_that_do_not_exist_are_refused_by_flag(fields, objective, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(vae.PRESETS["smoke"], objective=vae.ObjectiveConfig(**objective), **fields)


def test_folders_from_before_the_network_was_its_own_configuration_are_read(tmp_path):
    before = {"architecture": "mlp", "latent": 4, "hidden": [32], "upper_latents": [3], "upper_hidden": [8]}
    before |= {"inference": "top_down", "likelihood": "gaussian", "scale": 0.2}
    content = {"experiment": "experiments.vae", "preset": "smoke", "config": {"model": before}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    found, _ = with_stored("experiments.vae", vae.PRESETS, ["smoke", "--resume", "--workdir", str(tmp_path)])
    config = found["smoke"]
    assert config.model == vae.VAE(latent=4, hidden=(32,), likelihood="gaussian")
    assert config.upper == vae.UpperConfig((3,), (8,), "top_down") and config.objective.scale == 0.2
