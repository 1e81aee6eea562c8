"""Every experiment: two steps resumed to four equal four straight; the run folder guards what it holds."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments import base, bnn, edsr, estimators, mdsr, rate_distortion, rcan, srcnn, vae
from vaesr import reports, training

EXPERIMENTS = {
    "vae": vae,
    "bnn": bnn,
    "estimators": estimators,
    "edsr": edsr,
    "mdsr": mdsr,
    "rcan": rcan,
    "srcnn": srcnn,
    "rate_distortion": rate_distortion,
}


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One data cache for all tests of this file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def use_cache(cache, monkeypatch):
    monkeypatch.setenv("VAESR_CACHE", str(cache))


def smoke(name, workdir, **fields):
    module = EXPERIMENTS[name]
    fields = {"optim": training.OptimConfig(lr=1e-3), **fields}
    fields = {"batch_size": 4, "log_every": 1, **fields}
    config = dataclasses.replace(
        module.PRESETS["smoke"], workdir=workdir, eval_every=4, checkpoint_every=2, **fields,
    )  # fmt: skip
    return base.run(f"experiments.{name}", "smoke", config, module.build)


def rows(folder, split="train"):
    return [
        {name: value for name, value in row.items() if name != "time"}
        for row in reports.read_metrics(folder)
        if row["split"] == split
    ]


# From the host: one experiment per sampler; the others read their data as the VAE does.
_RUNS = [*((name, "device") for name in EXPERIMENTS), *((name, "host") for name in ("vae", "edsr", "mdsr"))]


@pytest.mark.parametrize(("name", "data_on"), _RUNS)
def test_resumed_equals_straight(name, data_on, tmp_path):
    assert smoke(name, tmp_path / "whole", steps=4)
    assert smoke(name, tmp_path / "parts", steps=2, data_on=data_on)
    assert smoke(name, tmp_path / "parts", steps=4, data_on=data_on, resume=True)
    whole, _, step = training.restore_params(tmp_path / "whole", "latest")
    parts, _, _ = training.restore_params(tmp_path / "parts", "latest")
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")
    assert rows(tmp_path / "whole", "test")[-1] == rows(tmp_path / "parts", "test")[-1]
    for folder in ("whole", "parts"):
        names = {path.name for path in (tmp_path / folder).iterdir()}
        assert {"config.json", "metrics.jsonl", "checkpoints", "figures", "report.html"} <= names
        assert any((tmp_path / folder / "figures").glob("*.png"))


@pytest.mark.parametrize(
    "how", [{"fsdp": 2}, {"parallel": "pmap"}, {"accumulate": 2}, {"steps_per_dispatch": 2}], ids=str
)
def test_ways_of_running_give_the_same_losses(how, tmp_path):
    sgd = training.OptimConfig(name="sgd", lr=1e-4)
    # Eight examples: two micro-batches that four devices can share.
    common = {"steps": 4, "optim": sgd, "batch_size": 8, "log_every": how.get("steps_per_dispatch", 1)}
    smoke("vae", tmp_path / "plain", **common)
    smoke("vae", tmp_path / "other", **common, **how)
    first, second = rows(tmp_path / "plain"), rows(tmp_path / "other")
    assert len(first) == len(second) == 4 // common["log_every"]
    np.testing.assert_allclose([r["loss"] for r in first], [r["loss"] for r in second], rtol=1e-5)


def test_a_folder_is_guarded(tmp_path):
    smoke("vae", tmp_path / "run", steps=2)
    with pytest.raises(base.UserError, match=r"already holds a run\. --resume goes on with it"):
        smoke("vae", tmp_path / "run", steps=2)
    with pytest.raises(base.UserError, match=r"seed: 0 -> 3; optim.lr: 0.001 -> 0.01"):
        other = training.OptimConfig(lr=1e-2)
        smoke("vae", tmp_path / "run", steps=2, resume=True, seed=3, optim=other)
    with pytest.raises(base.UserError, match="holds no run to resume"):
        smoke("vae", tmp_path / "none", steps=2, resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(base.UserError, match="not a run folder; --overwrite won't delete it"):
        smoke("vae", tmp_path / "mine", steps=2, overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json.tmp").write_text("{")  # killed while writing its first file
    assert smoke("vae", tmp_path / "torn", steps=2)
    before = json.loads((tmp_path / "run" / "config.json").read_text())
    assert smoke("vae", tmp_path / "run", steps=2, overwrite=True, seed=3)
    after = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (before["config"]["seed"], after["config"]["seed"]) == (0, 3)


def test_a_cosine_schedule_binds_the_number_of_steps(tmp_path):
    cosine = training.OptimConfig(schedule="cosine")
    smoke("vae", tmp_path, steps=2, optim=cosine)
    with pytest.raises(base.UserError, match="steps: 2 -> 4"):
        smoke("vae", tmp_path, steps=4, optim=cosine, resume=True)


def test_warm_start_takes_over_what_fits(tmp_path):
    smoke("edsr", tmp_path / "x2", steps=2)
    x2 = training.restore_params(tmp_path / "x2")[0]["edsr"]
    model = dataclasses.replace(edsr.PRESETS["smoke"].model, scale=4)
    frozen = training.OptimConfig(name="sgd", lr=1e-30)
    smoke("edsr", tmp_path / "x4", steps=2, model=model, init_from=tmp_path / "x2", optim=frozen)
    x4 = training.restore_params(tmp_path / "x4")[0]["edsr"]
    np.testing.assert_array_equal(x4["head"]["kernel"], x2["head"]["kernel"])
    assert set(x4["upsampler"]) > set(x2["upsampler"])


def test_others_checkpoints_are_trained_on(tmp_path, capsys):
    from vaesr.models.edsr import EDSR
    from vaesr.pretrained import write_checkpoint, write_upscaler

    sizes = edsr.PRESETS["smoke"].model
    model = EDSR(scale=sizes.scale, channels=sizes.channels, blocks=sizes.blocks)
    theirs = model.init(jax.random.key(9), np.zeros((1, 8, 8, 3), np.float32))["params"]
    file = tmp_path / "theirs.pth"
    file.write_bytes(write_checkpoint(file, write_upscaler(model, theirs, "edsr-basicsr"), wrapper="params"))
    frozen = training.OptimConfig(name="sgd", lr=1e-30)
    smoke("edsr", tmp_path / "frozen", steps=2, init_from=file, optim=frozen)
    assert re.search(r"started from (\d+) of \1 tensors", capsys.readouterr().out)
    jax.tree.map(
        np.testing.assert_array_equal, training.restore_params(tmp_path / "frozen")[0]["edsr"], theirs
    )
    smoke("edsr", tmp_path / "tuned", steps=2, init_from=file)
    tuned = training.restore_params(tmp_path / "tuned", "latest")[0]["edsr"]
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), tuned, theirs)
    assert min(jax.tree.leaves(moved)) > 0 and max(jax.tree.leaves(moved)) < 0.02


def command(*arguments):
    return [sys.executable, "-m", "experiments.vae", *arguments]


def test_command_line_mistakes_are_one_line(tmp_path):
    for arguments, text in [
        (["defualt"], "did you mean default?"),
        (["smoke", "--stesp", "3"], "--steps"),
        (["smoke", "--data", "embeded:digits", "--workdir", str(tmp_path / "a")], "embedded:digits"),
        (["smoke", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["smoke", "--bound-samples", "0"], "--bound-samples must be at least 1, got 0"),
        (["smoke", "--objective.beta", "-1"], "--objective.beta must be at least 0, got -1.0"),
        (["smoke", "--fsdp", "3", "--workdir", str(tmp_path / "b")], "--fsdp 3 must divide the number"),
    ]:
        done = subprocess.run(command(*arguments), capture_output=True, text=True)
        assert done.returncode == 2 and text in done.stderr + done.stdout, (arguments, done.stderr)
        assert "Traceback" not in done.stderr


def test_resume_reads_the_fields_from_the_folder(tmp_path):
    smoke("vae", tmp_path, steps=2, seed=5)
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    done = subprocess.run(
        command("--resume", "--workdir", str(tmp_path), "--steps", "4"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["preset"] == "smoke" and training.restore_params(tmp_path, "latest")[2] == 4
    assert {**stored["config"], "steps": 2, "resume": False} == config


def test_a_run_that_never_began_leaves_no_claim(tmp_path):
    with pytest.raises(base.UserError, match=r"--init-from .* is no network to start from"):
        smoke("edsr", tmp_path / "run", steps=2, init_from=tmp_path / "nowhere")
    assert smoke("edsr", tmp_path / "run", steps=2)


def test_the_experiments_are_listed():
    done = subprocess.run([sys.executable, "-m", "experiments"], capture_output=True, text=True, check=True)
    for name, module in EXPERIMENTS.items():
        assert f"python -m experiments.{name} [{'|'.join(module.PRESETS)}]" in done.stdout


def test_sigterm_saves_and_resume_goes_on(tmp_path):
    arguments = ["smoke", "--workdir", str(tmp_path), "--steps", "200000", "--steps-per-dispatch", "10"]
    intervals = ["--eval-every", "200000", "--checkpoint-every", "200000", "--log-every", "10"]
    process = subprocess.Popen(command(*arguments, *intervals), stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(reports.read_metrics(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume --workdir" in output
    step = training.restore_params(tmp_path, "latest")[2]
    assert 0 < step < 200000 and str(step) in output
