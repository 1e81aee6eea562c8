"""What every experiment keeps, whichever there are: found by listing, none is named here."""

import contextlib
import dataclasses
import inspect
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from final_states import final_state
from quick_runs import SYSTEMS, killed, quick
from traced_steps import traced_step

from vaesr import forms, reports, runs, training
from vaesr.reports.curves import metric_names
from vaesr.reports.glossary import explain
from vaesr.runs.folder import write_config

# Minutes for each; what they ask is asked of a toy in the everyday suite.
pytestmark = pytest.mark.slow
every_system = pytest.mark.parametrize("name", SYSTEMS)
# What the papers' data looks like, for presets whose data is not at hand.
_SHAPES = {"tfds:cifar10": (32, 32, 3)}
_SPARSE = np.where(np.arange(2**20) % 16, 0, np.random.default_rng(0).standard_normal(2**20, np.float32))


def trainings(module, config):
    """Every training of a finished run, put together again: `(folder, Experiment, Config)`."""
    if not inspect.isgeneratorfunction(module.build):
        yield config.workdir, module.build(config), config
        return
    for stage in module.build(config):
        if isinstance(stage, runs.Stage):
            yield config.workdir / stage.folder, stage.build(stage.config), stage.config


def papers(module, config):
    """The experiments of a configuration; each stage is left as a run of no steps for the next."""
    if not inspect.isgeneratorfunction(module.build):
        yield module.build(config)
        return
    for stage in module.build(config):
        if isinstance(stage, runs.Stage):
            experiment, folder = stage.build(stage.config), config.workdir / stage.folder
            yield experiment
            folder.mkdir(parents=True, exist_ok=True)
            write_config(folder, module.__name__, "paper", stage.config, model=experiment.model, bank=None)
            # Shapes are what is asked: numbers nearly all zero are written in a moment (all zero are
            # refused), and nobody reads an optimizer's state.
            shapes = jax.eval_shape(experiment.init, jax.random.key(0))
            params = jax.tree.map(
                lambda leaf: jnp.asarray(np.resize(_SPARSE, leaf.shape), leaf.dtype), shapes
            )
            players = {
                player: each._replace(optimizer=optax.identity())
                for player, each in experiment.players.items()
            }
            state = training.create_state(lambda _, params=params: params, players, key=jax.random.key(0))
            with training.Checkpoints(folder) as checkpoints:
                checkpoints.save(state, step=0, score=0.0)


class StopAfter:
    """Looks like the event that a signal sets, some steps after it was made."""

    def __init__(self, steps):
        self.left = steps  # asked once before the first step

    def is_set(self):
        self.left -= 1
        return self.left < 0


def rows(folder):
    clock = ("time", "steps_per_s", "images_per_s", "seconds")
    return [
        {name: value for name, value in row.items() if name not in clock}
        for row in reports.read_metrics(folder)
    ]


@every_system
def test_stopped_after_two_steps_and_resumed_equals_straight(name, finished, tmp_path, monkeypatch):
    module, whole = SYSTEMS[name], finished(name)
    config = quick(module, tmp_path / "parts")
    # The first training is stopped by a signal; later ones go on from what a kill after two steps leaves.
    signals = itertools.chain([2], itertools.repeat(math.inf))
    monkeypatch.setattr(training, "stop_on_signals", lambda: contextlib.nullcontext(StopAfter(next(signals))))
    assert not runs.run(module.__name__, "smoke", config, module.build)
    folders = []

    def build(config):
        for stage in module.build(config):
            if isinstance(stage, runs.Stage):
                if stage.folder:
                    shutil.copytree(killed(whole.workdir) / stage.folder, config.workdir / stage.folder)
                folders.append(stage.folder)
            yield stage

    build = build if inspect.isgeneratorfunction(module.build) else module.build
    assert runs.run(module.__name__, "smoke", dataclasses.replace(config, resume=True), build)
    for folder in folders or [""]:
        straight, parts = whole.workdir / folder, config.workdir / folder
        ours, theirs = (training.restore_params(path, "latest") for path in (straight, parts))
        assert ours[2] == theirs[2] == 4
        jax.tree.map(np.testing.assert_array_equal, ours[:2], theirs[:2])
        assert rows(straight) == rows(parts)
        assert {"config.json", "metrics.jsonl", "checkpoints", "report.html"} <= {
            p.name for p in parts.iterdir()
        }


@every_system
def test_batches_from_the_host_train_to_the_same_bits(name, tmp_path):
    module = SYSTEMS[name]
    if inspect.isgeneratorfunction(module.build) or not _is_smallest_of_its_sampler(name):
        pytest.skip("another system reads its data in the same way")
    command = [sys.executable, "-m", module.__name__, "smoke", "--workdir"]
    for where in ("device", "host"):  # two programs, which agree to the bit as users' programs are compiled
        words = [*command, tmp_path / where, "--data-on", where]
        subprocess.run(words, check=True, capture_output=True, env={**os.environ, "XLA_FLAGS": ""})
    device, host = (final_state(tmp_path / where) for where in ("device", "host"))
    assert device[0] == host[0] > 0
    jax.tree.map(np.testing.assert_array_equal, device[1], host[1])


def _is_smallest_of_its_sampler(name):
    sizes = {}
    for other, module in SYSTEMS.items():
        if not inspect.isgeneratorfunction(module.build):
            experiment = module.build(module.PRESETS["smoke"])
            shapes = jax.tree.leaves(jax.eval_shape(experiment.init, jax.random.key(0)))
            sizes.setdefault(type(experiment.sampler), {})[other] = sum(leaf.size for leaf in shapes)
    return name in [min(kind, key=kind.get) for kind in sizes.values()]


@every_system
def test_a_finished_run_has_a_report_with_a_picture(name, finished):
    config = finished(name)
    assert (config.workdir / "report.html").read_text("utf-8").count("data:image/png") >= 1
    assert any((config.workdir / "figures").glob("*.png"))
    for folder, _, _ in trainings(SYSTEMS[name], config):
        rows = reports.read_metrics(folder)
        assert any(row["split"] == "test" for row in rows)
        assert not [metric for metric in metric_names(rows) if not explain(metric)]
        stored = json.loads((folder / "config.json").read_text())
        assert runs.build_model(stored["model"]) is not None and stored["preset"] == "smoke"


# What a test row holds besides means over images: figures of a set as a whole, and numbers known beforehand.
_OF_THE_WHOLE = re.compile(
    r"_ece|over_draws|auroc|active_units|active_groups|perplexity|usage|pca_components|waterfilling|uniform_bits|code_bits_per_image"
)


@every_system
def test_means_over_test_images_have_their_errors(name, finished):
    config, means = finished(name), []
    for folder, _, _ in trainings(SYSTEMS[name], config):
        for row in reports.read_metrics(folder):
            if row["split"] == "test":
                means += [(metric, row) for metric in metric_names([row]) if not _OF_THE_WHOLE.search(metric)]
    assert means
    assert not [metric for metric, row in means if not row.get(reports.error_name(metric), -1) >= 0]


@every_system
def test_a_step_lowered_for_an_accelerator_has_no_form_for_cpus(name, finished):
    for _, experiment, config in trainings(SYSTEMS[name], finished(name)):
        traced = traced_step(experiment, config)
        for platform in ("tpu", "cuda"):
            assert not forms.made_for_cpus(traced, platform=platform), platform


@every_system
def test_the_presets_are_there_and_the_papers_builds_its_shapes(name, tmp_path):
    module = SYSTEMS[name]
    assert {"smoke", "default", "paper"} <= set(module.PRESETS)
    paper, quick = module.PRESETS["paper"], module.PRESETS["smoke"]
    source = "embedded:photos" if paper.data.startswith("folder:") else quick.data
    shape = _SHAPES.get(paper.data)
    if hasattr(paper, "tile") and paper.data.startswith("folder:"):
        shape = (paper.tile, paper.tile, 3)  # a few, for all are encoded
    if shape is not None:
        images = np.random.default_rng(0).integers(0, 255, (12, *shape), np.uint8)
        np.save(tmp_path / "images.npy", images)
        source = f"npy:{tmp_path / 'images.npy'}"
    others = {"features": "random"} if hasattr(paper, "features") else {}
    config = dataclasses.replace(paper, data=source, workdir=tmp_path, **others)
    for experiment in papers(module, config):
        params, _ = jax.eval_shape(experiment.init, jax.random.key(0))
        assert set(params) == set(experiment.players)
        assert runs.build_model(experiment.model) is not None
    assert type(quick) is type(paper)
