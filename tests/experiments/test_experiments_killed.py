"""`kill -9` or a closed terminal at random moments: the resumed run ends with the uninterrupted run's bits.

`VAESR_KILLS=20 pytest -m slow tests/experiments/test_experiments_killed.py` kills twenty runs instead of two.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from final_states import final_state

from vaesr.reports import read_metrics

KILLS = int(os.environ.get("VAESR_KILLS", "2"))
COMMANDS = {
    "edsr": "--steps 120 --checkpoint-every 5 --eval-every 40 --log-every 5",
    # Two stages, the second in a folder of its own.
    "vqvae": (
        "--steps 200 --prior.steps 200 --steps-per-dispatch 5 --checkpoint-every 20 --eval-every 100 "
        "--prior.eval-every 20"
    ),
    "vae": "--steps 6000 --steps-per-dispatch 10 --checkpoint-every 200 --eval-every 1000",
    # Two stages, the second of two players.
    "esrgan": (
        "--steps 60 --gan.steps 60 --log-every 5 --checkpoint-every 10 --eval-every 30 --gan.eval-every 15"
    ),
}
STEPS = {"edsr": 120, "vqvae": 400, "vae": 6000, "esrgan": 120}
CASES = list(itertools.islice(itertools.cycle(COMMANDS), KILLS))


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    # One device, as users have; conftest's four virtual ones would only slow this down.
    return {**os.environ, "VAESR_CACHE": cache, "XLA_FLAGS": ""}


def start(name, workdir, environment, *more):
    command = [
        sys.executable,
        "-m",
        f"experiments.{name}",
        "smoke",
        "--workdir",
        str(workdir),
        *COMMANDS[name].split(),
    ]
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen([*command, *more], env=environment, stdout=log, stderr=log)


def finish(process, workdir):
    assert process.wait(timeout=600) == 0, (workdir.parent / f"{workdir.name}.log").read_text()[-3000:]


@pytest.fixture(scope="module")
def uninterrupted(environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for name in sorted(set(CASES)):
        finish(start(name, folder / name, environment), folder / name)
    return folder


def folders(workdir):
    """The run folders of all stages that have begun."""
    # Not "**": it walks into checkpoints that are being renamed.
    return [path.parent for glob in ("config.json", "*/config.json") for path in sorted(workdir.glob(glob))]


def steps_done(workdir):
    return sum(max((row["step"] for row in read_metrics(folder)), default=0) for folder in folders(workdir))


def keeps_others_out(process, workdir, environment):
    """Whether a second run of the folder is refused for as long as the first goes on."""
    while not (workdir / "config.json").exists() and process.poll() is None:
        time.sleep(0.01)
    second = start(process.args[2].split(".")[1], workdir, environment, "--resume")
    return second.wait(timeout=600) == 2 or process.poll() is not None


def end_somewhere(process, workdir, generator, number):
    """Wait until the run has passed a random step (or a random part of its start), then send the signal."""
    target = generator.uniform(-0.1, 0.95) * STEPS[process.args[2].split(".")[1]]
    if target < 0:
        time.sleep(generator.uniform(0, 4))
    while steps_done(workdir) < target and process.poll() is None:
        time.sleep(0.01)
    time.sleep(generator.uniform(0, 0.3))
    process.send_signal(number)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "name"), list(enumerate(CASES)))
def test_killed_and_resumed_ends_with_the_same_bits(number, name, environment, uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    process = start(name, workdir, environment)
    if number % 2 == 0:
        assert keeps_others_out(process, workdir, environment)
    end_somewhere(
        process, workdir, random.Random(number), signal.SIGHUP if number % 4 == 3 else signal.SIGKILL
    )
    killed_at = steps_done(workdir)
    # Where there was nothing yet, the same command begins.
    finish(start(name, workdir, environment, "--resume"), workdir)
    whole = folders(uninterrupted / name)
    assert [f.relative_to(workdir) for f in folders(workdir)] == [
        f.relative_to(uninterrupted / name) for f in whole
    ]
    rows = lambda folder: [{k: v for k, v in r.items() if k != "time"} for r in read_metrics(folder)]
    for ours, theirs in zip(folders(workdir), whole, strict=True):
        (end, state), (step, expected) = final_state(ours), final_state(theirs)
        assert step == end
        jax.tree.map(np.testing.assert_array_equal, state, expected)
        assert rows(ours) == rows(theirs)
    print(f"killed {name} after step {killed_at} of {STEPS[name]}: same bits")
