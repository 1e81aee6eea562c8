"""Two processes over loopback train, checkpoint and resume with the losses of one process."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaesr.reports import read_metrics
from vaesr.training import Checkpoints, Player, create_state, restore_params

SHARED = [
    "smoke", "--batch-size", "8", "--log-every", "1", "--eval-every", "10", "--checkpoint-every", "10",
    "--optim.name", "sgd", "--optim.lr", "1e-4", "--optim.weight-decay", "0", "--optim.schedule", "constant",
    "--bound-samples", "1",
]  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train(workdir, processes, devices, environment, *more):
    """Run the experiment in so many processes of so many devices; returns nothing but a finished folder."""
    # Of one flag given twice the last counts.
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = {**environment, "XLA_FLAGS": flags}
    command = [sys.executable, "-m", "experiments.vae", *SHARED, "--workdir", str(workdir), *more]
    port = free_port()
    joined = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", str(processes)]
    children = [
        subprocess.Popen(
            [*command, *([*joined, "--process-id", str(number)] if processes > 1 else [])],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in range(processes)
    ]  # fmt: skip
    for child in children:
        output, _ = child.communicate(timeout=300)
        assert child.returncode == 0, output[-3000:]


def train_losses(workdir):
    return [row["loss"] for row in read_metrics(workdir) if row["split"] == "train"]


@pytest.mark.slow
@pytest.mark.parametrize("where", [["--data-on", "device"], ["--data-on", "host", "--fsdp", "2"]], ids=str)
def test_two_processes_equal_one(tmp_path, tmp_path_factory, where):
    cache = tmp_path_factory.getbasetemp() / "cache"
    environment = {**os.environ, "VAESR_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    train(tmp_path / "one", 1, 1, environment, "--steps", "20")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "config.json").write_text("{}")  # an old run, which one of the two processes deletes
    train(tmp_path / "two", 2, 2, environment, "--steps", "10", "--overwrite", *where)
    assert restore_params(tmp_path / "two", "latest")[2] == 10
    train(tmp_path / "two", 2, 2, environment, "--steps", "20", "--resume", *where)
    one, two = train_losses(tmp_path / "one"), train_losses(tmp_path / "two")
    assert len(one) == len(two) == 20
    np.testing.assert_allclose(two, one, rtol=1e-5)
    parameters = [restore_params(tmp_path / name, "latest")[0]["vae"] for name in ("one", "two")]
    a, b = (p["encoder"]["Dense_0"]["kernel"] for p in parameters)
    np.testing.assert_allclose(a, b, atol=1e-5)


READER = """
import sys
import jax
from vaesr import training
folder, port, number = sys.argv[1:]
training.initialize_distributed(
    coordinator=f"127.0.0.1:{port}", num_processes=2, process_id=int(number), detect=False
)
for _ in range(2):
    if jax.process_index() == 0:  # as figures and what happens between stages do
        print("step", training.restore_params(folder)[2])
    assert training.from_first_process("together") == "together"
"""


def test_the_first_process_reads_a_checkpoint_alone(tmp_path):
    """It waits for no other one, which may be training."""
    params, players = {"m": {"w": jnp.ones((3,))}}, {"m": Player(None, optax.sgd(0.1))}
    state = create_state(lambda key: (params, {}), players, key=jax.random.key(0))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, step=7, score=1.0)
    port = str(free_port())
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(tmp_path), port, str(number)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    outputs = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert outputs[0].count("step 7") == 2
