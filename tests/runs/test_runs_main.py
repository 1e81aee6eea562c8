"""Ways of running, the command line, and what the run folder guards."""

import contextlib
import dataclasses
import errno
import functools
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

import experiments
from experiments import edsr
from vaesr import reports, runs, training
from vaesr.runs import folder as folder_module
from vaesr.runs.folder import as_json, claim, read_config, with_stored, write_config
from vaesr.runs.lock import held
from vaesr.runs.main import best_or_latest

pytestmark = pytest.mark.usefixtures("use_cache")
EXPERIMENTS = {module.__name__.rpartition(".")[2]: module for module in experiments.discover()}


def smoke(name, workdir, **fields):
    module = EXPERIMENTS[name]
    fields = {"optim": training.OptimConfig(lr=1e-3), **fields}
    fields = {"batch_size": 4, "log_every": 1, **fields}
    config = dataclasses.replace(
        module.PRESETS["smoke"], workdir=workdir, eval_every=4, checkpoint_every=2, **fields,
    )  # fmt: skip
    return runs.run(f"experiments.{name}", "smoke", config, module.build)


def rows(folder, split="train"):
    return [
        {name: value for name, value in row.items() if name != "time"}
        for row in reports.read_metrics(folder)
        if row["split"] == split
    ]


# Eight examples: two micro-batches that four devices can share.
COMMON = {"steps": 4, "optim": training.OptimConfig(name="sgd", lr=1e-4), "batch_size": 8}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The folder of a run as one runs it usually, logged so often."""
    root = tmp_path_factory.mktemp("plain")

    @functools.cache
    def folder(log_every):
        smoke("vae", root / str(log_every), **COMMON, log_every=log_every)
        return root / str(log_every)

    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [{"fsdp": 2}, {"parallel": "pmap"}, {"accumulate": 2}, {"steps_per_dispatch": 2}], ids=str
)
def test_ways_of_running_give_the_same_losses(how, tmp_path, plain):
    common = {**COMMON, "log_every": how.get("steps_per_dispatch", 1)}
    smoke("vae", tmp_path, **common, **how)
    first, second = rows(plain(common["log_every"])), rows(tmp_path)
    assert len(first) == len(second) == 4 // common["log_every"]
    np.testing.assert_allclose([r["loss"] for r in first], [r["loss"] for r in second], rtol=1e-5)


@pytest.mark.slow
def test_a_folder_is_guarded(tmp_path, capsys):
    smoke("vae", tmp_path / "run", steps=2)
    with pytest.raises(runs.UserError, match=r"already holds a run\. --resume goes on with it"):
        smoke("vae", tmp_path / "run", steps=2)
    with pytest.raises(runs.UserError, match=r"seed: 0 -> 3; optim.lr: 0.001 -> 0.01"):
        other = training.OptimConfig(lr=1e-2)
        smoke("vae", tmp_path / "run", steps=2, resume=True, seed=3, optim=other)
    assert smoke("vae", tmp_path / "none", steps=2, resume=True)
    assert "holds no run to resume; this is its beginning" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "none" / "checkpoints")
    with pytest.raises(runs.UserError, match="has taken 2 steps, and its checkpoints are gone"):
        smoke("vae", tmp_path / "none", steps=4, resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(runs.UserError, match="not a run folder; --overwrite won't delete it"):
        smoke("vae", tmp_path / "mine", steps=2, overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json.tmp").write_text("{")  # killed while writing its first file
    assert smoke("vae", tmp_path / "torn", steps=2)
    before = json.loads((tmp_path / "run" / "config.json").read_text())
    assert smoke("vae", tmp_path / "run", steps=2, overwrite=True, seed=3)
    after = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (before["config"]["seed"], after["config"]["seed"]) == (0, 3)


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_in_use_is_left_alone(how, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n')
    with held(tmp_path), pytest.raises(runs.UserError, match=r"is in use by process \d+ on"):
        smoke("vae", tmp_path, **how)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "config.json": "{}", "metrics.jsonl": '{"step": 2}\n',
    }  # fmt: skip


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_what_describes_nothing_is_written_anew(content, tmp_path):
    config = dataclasses.replace(EXPERIMENTS["vae"].PRESETS["smoke"], workdir=tmp_path)
    (tmp_path / "config.json").write_text(content)
    claim(tmp_path, config)
    write_config(tmp_path, "experiments.vae", "smoke", config, model={"name": "VAE"}, bank=None)
    assert read_config(tmp_path)["preset"] == "smoke"


def test_emptied_checkpoints_are_noticed_once_there_must_have_been_some(tmp_path):
    config = dataclasses.replace(EXPERIMENTS["vae"].PRESETS["smoke"], workdir=tmp_path, checkpoint_every=2)
    content = {"experiment": "experiments.vae", "preset": "smoke", "config": as_json(config)}
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "checkpoints").mkdir()
    resumed = dataclasses.replace(config, resume=True)
    # The first checkpoint, of step 2, may be half-written until the second begins.
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "split": "train"}\n')
    claim(tmp_path, resumed)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "split": "train"}\n')
    with pytest.raises(runs.UserError, match="has taken 5 steps, and its checkpoints are gone"):
        claim(tmp_path, resumed)


@pytest.mark.slow
def test_what_is_measured_in_the_end_is_whole(tmp_path, plain, monkeypatch, capsys):
    shutil.copytree(plain(1), tmp_path / "run")
    first, last = (tmp_path / "run" / "checkpoints" / step for step in "24")
    with monkeypatch.context() as patch:
        patch.setattr(training.Checkpoints, "best", 2)
        assert best_or_latest(tmp_path / "run", True)[2] == 2
        next((first / "default" / "d").iterdir()).write_bytes(b"")
        assert best_or_latest(tmp_path / "run", True)[2] == 4
        said = capsys.readouterr().err
        assert "checkpoint 2 of" in said and "Checkpoint 4 is measured in its place" in said
        next((last / "default" / "d").iterdir()).write_bytes(b"")
        with pytest.raises(runs.UserError, match=r"checkpoint 4 of .* is damaged"):
            best_or_latest(tmp_path / "run", True)
    shutil.rmtree(first)
    (last / "metrics" / "metrics").write_bytes(b"\xff")
    with pytest.raises(runs.UserError, match=r"every checkpoint of .* is damaged"):
        smoke("vae", tmp_path / "run", **COMMON, resume=True)


def test_what_a_full_disk_leaves_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    config = dataclasses.replace(EXPERIMENTS["vae"].PRESETS["smoke"], workdir=tmp_path / "run")
    monkeypatch.setattr(folder_module, "_claim", full)
    with pytest.raises(
        runs.UserError, match=r"No space left on device\. The checkpoints .* go on with --resume"
    ):
        claim(tmp_path / "run", config)
    assert "make room" not in folder_module.in_words(OSError(errno.EACCES, "Permission denied"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MiB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True
    )
    if not made or made.returncode:
        pytest.skip("mounts no file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 50_000])
def test_a_full_disk_loses_nothing(left, small_disk):
    run, ballast = small_disk / "run", small_disk / "ballast"
    assert smoke("vae", run, steps=4)
    ballast.write_bytes(b"")
    free = shutil.disk_usage(small_disk).free - left
    ballast.write_bytes(bytes(free))
    words = (
        "--resume",
        "--workdir",
        str(run),
        "--steps",
        "400",
        "--checkpoint-every",
        "10",
        "--log-every",
        "1",
    )
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "make room, and go on with --resume" in last
    assert training.restore_params(run, "latest")[2] >= 4
    ballast.unlink()
    assert smoke("vae", run, steps=8, resume=True)


@pytest.mark.slow
def test_a_cosine_schedule_binds_the_number_of_steps(tmp_path):
    cosine = training.OptimConfig(schedule="cosine")
    smoke("vae", tmp_path, steps=2, optim=cosine)
    with pytest.raises(runs.UserError, match="steps: 2 -> 4"):
        smoke("vae", tmp_path, steps=4, optim=cosine, resume=True)


@pytest.mark.slow
def test_warm_start_takes_over_what_fits(tmp_path):
    smoke("edsr", tmp_path / "x2", steps=2)
    x2 = training.restore_params(tmp_path / "x2")[0]["edsr"]
    model = dataclasses.replace(edsr.PRESETS["smoke"].model, scale=4)
    frozen = training.OptimConfig(name="sgd", lr=1e-30)
    smoke("edsr", tmp_path / "x4", steps=2, model=model, init_from=tmp_path / "x2", optim=frozen)
    x4 = training.restore_params(tmp_path / "x4")[0]["edsr"]
    np.testing.assert_array_equal(x4["head"]["kernel"], x2["head"]["kernel"])
    assert set(x4["upsampler"]) > set(x2["upsampler"])


@pytest.mark.slow
def test_others_checkpoints_are_trained_on(tmp_path, capsys):
    from vaesr.models.edsr import EDSR
    from vaesr.pretrained import write_checkpoint, write_network

    sizes = edsr.PRESETS["smoke"].model
    model = EDSR(scale=sizes.scale, channels=sizes.channels, blocks=sizes.blocks)
    theirs = model.init(jax.random.key(9), np.zeros((1, 8, 8, 3), np.float32))["params"]
    file = tmp_path / "theirs.pth"
    file.write_bytes(write_checkpoint(file, write_network(model, theirs, "edsr-basicsr"), wrapper="params"))
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


@pytest.mark.slow
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


def test_a_copied_folder_is_where_it_is_now(tmp_path, monkeypatch):
    vae = EXPERIMENTS["vae"]
    config = dataclasses.replace(vae.PRESETS["smoke"], workdir=tmp_path / "old", seed=5)
    content = {"experiment": "experiments.vae", "preset": "smoke", "config": as_json(config)}
    copied = tmp_path / "elsewhere" / "runs" / "vae" / "smoke"
    copied.mkdir(parents=True)
    (copied / "config.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path / "elsewhere")
    found, preset = with_stored("experiments.vae", vae.PRESETS, ["smoke", "--resume"])
    assert preset == "smoke" and found["smoke"].seed == 5
    assert found["smoke"].workdir.absolute() == copied


@pytest.mark.parametrize("content", ["", "{", "[]", '{"config": 3}', '{"experiment": "experiments.vae"}'])
def test_a_damaged_description_is_a_line(content, tmp_path):
    vae = EXPERIMENTS["vae"]
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n')
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    words = ["smoke", "--resume", "--workdir", str(tmp_path)]
    assert with_stored("experiments.vae", vae.PRESETS, words) == (vae.PRESETS, None)
    config = dataclasses.replace(vae.PRESETS["smoke"], workdir=tmp_path, resume=True)
    with pytest.raises(runs.UserError, match=r"config\.json is damaged \(\w+\): put a copy back, or begin"):
        claim(tmp_path, config)


def test_files_in_the_place_of_folders_are_named_at_once(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "figures").write_text("")
    config = dataclasses.replace(EXPERIMENTS["vae"].PRESETS["smoke"], workdir=tmp_path)
    with pytest.raises(runs.UserError, match="already holds a run"):
        claim(tmp_path, config)
    (tmp_path / "config.json").unlink()
    (tmp_path / "figures").rename(tmp_path / "tensorboard")
    with pytest.raises(runs.UserError, match="tensorboard is a file where a folder belongs"):
        claim(tmp_path, config)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_run_that_never_began_leaves_no_claim(tmp_path):
    with pytest.raises(runs.UserError, match=r"--init-from .* is no network to start from"):
        smoke("edsr", tmp_path / "run", steps=2, init_from=tmp_path / "nowhere")
    assert smoke("edsr", tmp_path / "run", steps=2)


def two_stages(config):
    """A system of two trainings, the second of which needs the first."""
    vae = EXPERIMENTS["vae"]
    yield runs.Stage("", config, vae.build)
    assert training.restore_params(config.workdir)[2] == config.steps
    yield runs.Stage("second", dataclasses.replace(config, steps=config.steps + 2), vae.build)


def stages(workdir, **fields):
    config = EXPERIMENTS["vae"].PRESETS["smoke"]
    config = dataclasses.replace(
        config, workdir=workdir, batch_size=4, log_every=1, checkpoint_every=2, eval_every=4, **fields
    )
    return runs.run("experiments.vae", "smoke", config, two_stages)


@pytest.mark.slow
def test_a_finished_stage_is_guarded_and_a_stage_is_no_run(tmp_path, capsys, monkeypatch):
    assert stages(tmp_path, steps=4)
    assert json.loads((tmp_path / "second" / "config.json").read_text())["stage"] == "second"
    with pytest.raises(runs.UserError, match=r"holds one stage, second, of the run in .*: give --workdir"):
        stages(tmp_path / "second", steps=4, resume=True)
    shutil.rmtree(tmp_path / "second")
    with pytest.raises(runs.UserError, match=r"another configuration: batch_size: 4 -> 8|optim"):
        stages(tmp_path, steps=4, resume=True, optim=training.OptimConfig(lr=0.5))
    # A signal while the first stage is measured: the second does not begin.
    stop = threading.Event()
    stop.set()
    monkeypatch.setattr(training, "stop_on_signals", lambda: contextlib.nullcontext(stop))
    assert not stages(tmp_path, steps=4, resume=True)
    assert f"--resume --workdir {tmp_path} goes on" in capsys.readouterr().out
    assert not (tmp_path / "second").exists()
    monkeypatch.undo()
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))
    assert stages(tmp_path, steps=4, resume=True) and (tmp_path / "second" / "report.html").exists()
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    (tmp_path / "checkpoints" / "4" / "metrics" / "metrics").write_bytes(b"\xff")
    with pytest.raises(runs.UserError, match=r"every checkpoint of .* is damaged"):
        stages(tmp_path, steps=4, resume=True)


def test_a_deletion_that_was_killed_may_be_done_again(tmp_path, monkeypatch):
    config = EXPERIMENTS["vae"].PRESETS["smoke"]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "more.txt").write_text("kept until the end")

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        claim(tmp_path, dataclasses.replace(config, workdir=tmp_path, overwrite=True))
    assert (tmp_path / "config.json").exists()
    claim(tmp_path, dataclasses.replace(config, workdir=tmp_path, overwrite=True))
    assert {path.name for path in tmp_path.iterdir()} <= {".lock", "config.json"}


def test_batches_that_do_not_fit_are_refused_before(tmp_path, monkeypatch):
    with pytest.raises(runs.UserError, match=r"--batch-size 1000000000 takes \d+ GiB for its images alone"):
        smoke("vae", tmp_path, batch_size=1_000_000_000)
    with pytest.raises(ValueError, match="--batch-size must be below 2147483648"):
        smoke("vae", tmp_path, batch_size=3_000_000_000)


@pytest.mark.parametrize("count", (1, 2))
def test_too_few_images_are_a_sentence(count, tmp_path):
    np.save(tmp_path / "train.npy", np.zeros((count, 8, 8), np.uint8))
    with pytest.raises(runs.UserError, match=r"train|split|image"):
        smoke("vae", tmp_path / "run", data=f"npy:{tmp_path}")


def test_steps_that_do_not_divide_are_a_sentence(tmp_path):
    with pytest.raises(runs.UserError, match="steps_per_dispatch"):
        smoke("vae", tmp_path, steps=4, steps_per_dispatch=3)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of pictures of what is no number
def test_a_rate_that_breaks_everything_ends_in_a_line(tmp_path):
    with pytest.raises(training.NonFiniteError):
        smoke("vae", tmp_path, steps=400, optim=training.OptimConfig(lr=1e30))


def test_the_experiments_are_listed():
    done = subprocess.run([sys.executable, "-m", "experiments"], capture_output=True, text=True, check=True)
    for name, module in EXPERIMENTS.items():
        assert f"python -m experiments.{name} [{'|'.join(module.PRESETS)}]" in done.stdout


@pytest.mark.slow
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
