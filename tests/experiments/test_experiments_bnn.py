"""The Bayesian experiment: every method learns, its settings reach the objectives, the picture is right."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import bnn
from vaesr import reports, runs, training
from vaesr.models.classifier import Classifier
from vaesr.reports import error_name


def run(folder, preset="smoke", **fields):
    steps = fields.pop("steps", 2)
    config = dataclasses.replace(
        bnn.PRESETS[preset], workdir=folder, steps=steps, eval_every=steps, checkpoint_every=steps,
        log_every=fields.get("steps_per_dispatch", 1), **fields,
    )  # fmt: skip
    assert runs.run("experiments.bnn", preset, config, bnn.build)
    return [row for row in reports.read_metrics(folder) if row["split"] == "test"][-1]


@pytest.mark.slow
def test_methods_learn_the_digits(tmp_path):
    adam = training.OptimConfig(lr=3e-3)
    fields = {"point_optim": adam, "dropout_optim": adam, "optim": adam, "batch_size": 64, "repeats": 1}
    found = run(tmp_path, steps=150, model=Classifier(hidden=(64,)), steps_per_dispatch=50, **fields)
    for name in ("bnn", "deterministic", "ensemble", "dropout"):
        assert found[f"{name}_error_percent"] < 25 and found[f"{name}_nll_nats"] < 1.0
        assert 0 < found[f"{name}_ece"] < 0.5 and found[f"{name}_ood_auroc"] > 0.5
    assert found["bnn_pruned_0_error_percent"] == found["bnn_error_percent"]
    assert found["bnn_pruned_50_error_percent"] < found["bnn_pruned_95_error_percent"]
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == {"1_reliability.png", "2_extremes.png", "3_entropies.png", "4_pruning.png"}


def built(**fields):
    """The smoke preset's experiment and its initial parameters."""
    experiment = bnn.build(dataclasses.replace(bnn.PRESETS["smoke"], ood="none", **fields))
    return experiment, *jax.jit(experiment.init)(jax.random.key(0))


@pytest.mark.slow
def test_methods_can_be_left_out():
    experiment, params, variables = built(methods=("ensemble",), members=1, select="best")
    found = experiment.evaluate(params, variables)
    names = ("error_percent", "nll_nats", "ece", "brier")
    wanted = {f"deterministic_{name}" for name in names}
    assert set(found) == wanted | {error_name(name) for name in wanted if "ece" not in name}
    assert experiment.best_by == "-deterministic_nll_nats"
    experiment, params, variables = built(methods=("bnn",))
    assert all(name.startswith("bnn_") for name in experiment.evaluate(params, variables))
    assert set(experiment.players) == set(params) == {"bnn"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "bayes"),
    [
        pytest.param("lenet", {"prior": "fan_in"}, marks=pytest.mark.slow),
        ("mlp", {"prior": "gaussian", "how": "flipout"}),
        ("mlp", {"prior": "tied", "kl_warmup": 4}),
        ("mlp", {"prior": "mixture", "how": "weights", "kl_spread": "halving"}),
    ],
)
def test_every_bound_trains(architecture, bayes):
    model = Classifier(architecture=architecture, hidden=(8,))
    experiment, params, variables = built(
        methods=("bnn",),
        batch_size=8,
        model=model,
        bayes=bnn.BayesConfig(**bayes),
        optim=training.OptimConfig(),
    )
    state = training.create_state(lambda key: (params, variables), experiment.players, key=jax.random.key(0))
    step = jax.jit(training.make_train_step(experiment.players))
    place = {"key": jax.random.key(1), "position": jnp.arange(8)}
    rows = []
    for number in range(2):
        batch = experiment.sampler(experiment.sampler.source(), step=jnp.int32(number), **place)
        state, row = step(state, batch)
        rows.append(row)
    assert all(np.isfinite(row["elbo_nats"]) and row["skipped_run"] == 0 for row in rows)
    assert [float(row["kl_weight"]) for row in rows] == ([0.0, 0.25] if "kl_warmup" in bayes else [1.0, 1.0])
    per_example = (float(rows[0]["loss"]) - float(rows[0]["nll_nats"])) / float(
        rows[0]["kl_per_example_nats"]
    )
    # 4,000 examples in batches of 8: the first of 500 has half of the epoch's KL, 500 / 2 of a mean one.
    expected = {"halving": 250.0}.get(bayes.get("kl_spread"), float(rows[0]["kl_weight"]))
    assert per_example == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_scales_follow_the_fan_in():
    scale = bnn._by_fan_in(0.5)
    assert scale(("dense", "kernel"), jnp.zeros((100, 7))) == pytest.approx(0.05)
    assert scale(("conv", "kernel"), jnp.zeros((5, 5, 4, 7))) == pytest.approx(0.05)
    assert scale(("dense", "bias"), jnp.zeros(7)) == pytest.approx(0.5)


@pytest.mark.slow
def test_ensemble_members_differ_and_the_first_is_the_deterministic_net():
    experiment = bnn.build(dataclasses.replace(bnn.PRESETS["smoke"], ood="none"))
    params, variables = jax.jit(experiment.init)(jax.random.key(0))
    kernel = params["ensemble"]["head"]["kernel"]
    assert kernel.shape[0] == 2 and not np.allclose(kernel[0], kernel[1])
    found = experiment.evaluate(params, variables)
    swapped = params | {"ensemble": jax.tree.map(lambda leaf: leaf[::-1], params["ensemble"])}
    other = experiment.evaluate(swapped, variables)
    assert found["ensemble_nll_nats"] == pytest.approx(other["ensemble_nll_nats"], rel=1e-5)
    assert found["deterministic_nll_nats"] != other["deterministic_nll_nats"]


def test_methods_may_end_before_the_others():
    cosine = training.OptimConfig(schedule="cosine")
    fields = {"optim": cosine, "point_optim": cosine, "dropout_optim": cosine, "point_steps": 2}
    fields |= {"dropout_steps": 1, "steps": 9, "ood": "none"}
    players = bnn.build(dataclasses.replace(bnn.PRESETS["smoke"], **fields)).players
    for name, moves in [
        ("ensemble", [True, True, False]), ("bnn", [True, True, True]), ("dropout", [True, False, False]),
    ]:  # fmt: skip
        state, moved = players[name].optimizer.init(jnp.ones(3)), []
        for _ in moves:
            update, state = players[name].optimizer.update(jnp.ones(3), state, jnp.ones(3))
            moved.append(bool(jnp.any(update != 0)))
        assert moved == moves


def test_no_method_is_tested_before_its_end():
    """A run of fewer steps than the ensemble usually has ends its cosine, too."""
    fields = {"ood": "none", "steps": 3, "methods": ("ensemble",)}
    config = dataclasses.replace(bnn.PRESETS["default"], **fields)
    assert config.point_steps > 3
    optimizer = bnn.build(config).players["ensemble"].optimizer
    state = optimizer.init(jnp.ones(3))
    sizes = []
    for _ in range(4):
        update, state = optimizer.update(jnp.ones(3), state, jnp.zeros(3))
        sizes.append(float(jnp.abs(update).max()))
    assert sizes == sorted(sizes, reverse=True) and sizes[2] < 0.3 * sizes[0] and sizes[3] == 0


@pytest.mark.slow
def test_draws_are_repeated_and_the_last_checkpoint_may_be_taken(tmp_path):
    fields = {"methods": ("bnn", "dropout"), "ood": "none", "select": "last"}
    once, thrice = (run(tmp_path / str(n), repeats=n, **fields) for n in (1, 3))
    for name in fields["methods"]:
        spread = thrice[f"{name}_over_draws_nll_nats"]
        assert 0 < abs(thrice[f"{name}_nll_nats"] - once[f"{name}_nll_nats"]) < 4 * spread < 1
        assert f"{name}_over_draws_nll_nats" not in once
    assert built(select="last")[0].best_by is None


@pytest.mark.slow
def test_the_regressions_error_bars_grow_away_from_the_data(tmp_path):
    adam = training.OptimConfig(lr=3e-3)
    found = run(
        tmp_path, "regression", steps=600, optim=adam, point_optim=adam, dropout_optim=adam, draws=50,
        batch_size=100, model=dataclasses.replace(bnn.PRESETS["regression"].model, hidden=(50, 50)),
        steps_per_dispatch=50,
    )  # fmt: skip
    assert found["bnn_epistemic_away"] > 1.5 * found["bnn_epistemic_inside"]
    assert found["bnn_rmse"] < 0.1  # the targets' own standard deviation is 0.17
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == {"1_bnn.png", "2_ensemble.png", "3_dropout.png"}


@pytest.mark.slow
def test_runs_are_compared_from_the_command_line(tmp_path):
    for seed in (0, 1):
        run(tmp_path / str(seed), methods=("bnn",), ood="none", batch_size=4, seed=seed)
    command = [sys.executable, "-m", "experiments", "compare"]
    folders = [str(tmp_path / "0"), str(tmp_path / "1")]
    done = subprocess.run([*command, *folders], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("A: experiments.bnn smoke, 2 runs, seeds 0, 1\n")
    assert " ± " in next(line for line in done.stdout.splitlines() if line.startswith("bnn_ece"))
    failed = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.startswith("error: ") and "no run folder" in failed.stderr


@pytest.mark.slow
def test_wrong_settings_are_sentences(tmp_path):
    smoke = bnn.PRESETS["smoke"]
    for fields, text in [
        ({"members": 0}, "--members must be at least 1, got 0"),
        (
            {"point_steps": 3},
            "--point-steps must be at least 0 and needs --point-optim.schedule cosine, got 3",
        ),
        ({"dropout_steps": -1}, "--dropout-steps must be at least 0"),
        ({"repeats": 0}, "--repeats must be at least 1, got 0"),
        ({"methods": ()}, "--methods must name one or more different methods"),
        ({"methods": ("bnn", "bnn")}, "--methods must name one or more different methods"),
    ]:
        with pytest.raises(ValueError, match=text):
            dataclasses.replace(smoke, **fields)
    with pytest.raises(ValueError, match=r"--bayes\.kl-weight must be at least 0, got -1"):
        bnn.BayesConfig(kl_weight=-1)
    with pytest.raises(runs.UserError, match="--data must hold images of one size"):
        bnn.build(dataclasses.replace(smoke, data="embedded:photos"))
