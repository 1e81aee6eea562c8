"""Ctrl-C at any moment, and what is told to whoever waits.

`VAESR_INTERRUPTS=50 pytest -m slow tests/app/test_app_interrupts.py` interrupts fifty times, not twelve.
"""

import fcntl
import itertools
import os
import pty
import random
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import numpy as np
import pytest

from vaesr.app import status as status_module
from vaesr.app.status import Status
from vaesr.files.images import Photo, write_photo
from vaesr.models.edsr import EDSR

# How many, when, in seconds after the start, and by what.
INTERRUPTS = int(os.environ.get("VAESR_INTERRUPTS", "12"))
CASES = itertools.cycle(itertools.product((0.0, 0.1, 1.0, 2.0, 4.0, 8.0), (signal.SIGINT, signal.SIGTERM)))

STARTED: list[subprocess.Popen] = []


@pytest.fixture(scope="module")
def slow_folder(tmp_path_factory):
    """A run whose network takes some seconds for a photo."""
    import jax.numpy as jnp
    from written_runs import write_run

    model = EDSR(scale=2, channels=64, blocks=16)
    return write_run(tmp_path_factory.mktemp("runs") / "edsr", "edsr", model, jnp.zeros((1, 8, 8, 3)))


def start(slow_folder, folder, source=None, **how):
    if source is None:
        source = folder / "a.png"
        write_photo(source, Photo(np.zeros((2000, 2000, 3), np.uint8)))
    line = ["upscale", "--run", str(slow_folder), "-t", "96", "-i", str(source), "-o", str(folder / "out")]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    STARTED.append(subprocess.Popen([sys.executable, "-m", "vaesr", *line], **how))
    return STARTED[-1]


@pytest.fixture(autouse=True)
def none_left():
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def catches(pid, number):
    """Whether a process has a handler of its own for a signal."""
    with open(f"/proc/{pid}/status") as file:
        mask = next(line.split()[1] for line in file if line.startswith("SigCgt"))
    return int(mask, 16) >> (number - 1) & 1


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("time_", "moment", "number"), [(i, *case) for i, case in enumerate(itertools.islice(CASES, INTERRUPTS))]
)
def test_a_signal_ends_it_at_once(slow_folder, tmp_path, time_, moment, number):
    process = start(slow_folder, tmp_path)
    while not catches(process.pid, signal.SIGTERM):  # Python itself catches SIGINT alone
        time.sleep(0.01)
        assert process.poll() is None
    time.sleep(moment * random.uniform(0.5, 1.5))
    process.send_signal(number)
    began = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 2
    assert not list((tmp_path / "out").glob("*")) and b"vaesr/" not in err, err
    assert process.returncode == 128 + number and b"finished files are complete" in err and out == b""


@pytest.mark.slow
def test_ctrl_c_leaves_no_half_film(edsr_folder, tmp_path):
    av = pytest.importorskip("av")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with av.open(str(tmp_path / "a.mkv"), "w") as writer:
        stream = writer.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(3000):
            picture = np.roll(noise, number, axis=0)
            writer.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        writer.mux(stream.encode(None))
    process = start(edsr_folder, tmp_path, tmp_path / "a.mkv")
    until = time.monotonic() + 60
    while not any(path.stat().st_size for path in (tmp_path / "out").glob(".*.mkv")):  # half a film
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 2 and process.returncode == 130, err
    assert not list((tmp_path / "out").iterdir()) and b"finished files are complete" in err


@pytest.mark.slow
def test_ctrl_c_on_a_terminal(slow_folder, tmp_path):
    terminal, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = start(slow_folder, tmp_path, stdin=other, stdout=other, stderr=other, start_new_session=True)
    os.close(other)
    shown, until = b"", time.monotonic() + 60
    while b"tile " not in shown and time.monotonic() < until:
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 4096)
    assert b"reading weights" in shown and b"compiling for" in shown
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert process.wait(timeout=60) == 130 and time.monotonic() - began < 2
    os.close(terminal)


def test_finished_files_stay(slow_folder, tmp_path):
    """What is written is complete or not there, and nothing hidden is left."""
    from vaesr.files.atomic import atomic_file, remove_unfinished

    (tmp_path / "done").write_text("whole")
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "new") as temporary:
        temporary.write_text("half")
        remove_unfinished()
    assert [path.name for path in tmp_path.iterdir()] == ["done"]


def test_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(status_module, "_LINE", 0.05)
    with Status([100.0, None, 300.0]) as status:
        status.begin("a.png")
        status.compiling((1, 150, 200, 3))
        time.sleep(0.12)
        status.compiling(None)
        for done in range(1, 5):
            status.progress(done, 8)
            time.sleep(0.06)
        status.say("a.png: done")
        status.finish()
        status.begin("b.png")
        time.sleep(0.12)
    said = capsys.readouterr()
    assert said.out == "a.png: done\n"
    assert "a.png (1 of 3): compiling for 200x150 pixels\n" in said.err
    assert "a.png (1 of 3): tile 4 of 8, about" in said.err and "b.png (2 of 3): reading" in said.err
    status.stage("later")
    time.sleep(0.1)
    assert "later" not in capsys.readouterr().err


def test_seconds_left(monkeypatch):
    """By what was done since the first tile, until which the network was compiled."""
    clock = [0.0]
    monkeypatch.setattr(status_module.time, "monotonic", lambda: clock[0])
    status = Status([100.0, 100.0], quiet=True)
    status.begin("a")
    clock[0] = 30.0  # compiled
    status.progress(1, 4)
    assert "left" not in status.text()
    clock[0] = 36.0
    status.progress(4, 4)
    assert status.text() == "a (1 of 2): tile 4 of 4, about 8 s left"
    status.finish()
    clock[0] = 40.0
    status.begin("b")
    status.progress(2, 4)
    assert status.text() == "b (2 of 2): tile 2 of 4, about 4 s left"


def test_quiet(capsys, monkeypatch):
    monkeypatch.setattr(status_module, "_LINE", 0.02)
    with Status(quiet=True) as status:
        status.begin("a.png")
        time.sleep(0.1)
    assert capsys.readouterr() == ("", "")
