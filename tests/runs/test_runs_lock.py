"""One run at a time in a folder, whatever becomes of the process that had it."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

from vaesr.runs import UserError
from vaesr.runs.folder import LOCK, is_bare
from vaesr.runs.lock import held

HOLDER = """
import pathlib, sys, time
from vaesr.runs.lock import held
with held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_that_is_in_use_is_refused_with_who_has_it(tmp_path):
    folder = tmp_path / "a" / "run"
    with held(folder):
        assert is_bare(folder)
        with (
            pytest.raises(UserError, match=rf"is in use by process {os.getpid()} on .* since 20"),
            held(folder),
        ):
            raise AssertionError
        (folder / "config.json").write_text("{}")
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    with held(folder):  # free again
        pass


def test_a_folder_in_which_nothing_came_is_removed(tmp_path):
    with pytest.raises(ZeroDivisionError), held(tmp_path / "run"):
        raise ZeroDivisionError
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_death_releases(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"in use by process {process.pid} "), held(tmp_path):
        raise AssertionError
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / LOCK).exists()
    with held(tmp_path):
        pass


def test_what_cannot_be_locked_is_said(tmp_path, monkeypatch, capsys):
    import fcntl

    def refuse(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with held(tmp_path):
        pass
    assert "can't be locked (Operation not supported): keep other runs out" in capsys.readouterr().err


def test_what_cannot_be_made_is_a_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"), held(pathlib.Path(tmp_path / "file" / "run")):
        raise AssertionError
