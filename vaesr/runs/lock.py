"""One run at a time in one folder."""

import contextlib
import json
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax

from vaesr import training
from vaesr.runs.folder import LOCK, UserError, in_words


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
    """Keep a run folder for this run; it is made, and removed again where nothing came into it.

    The operating system's lock on a file in the folder (flock): it ends with the process, however that ends.
    On network file systems it holds between machines where they pass such locks on, as NFS 4 and Lustre
    mounted with `flock` do; where they refuse, a note says that nobody watches. Of several processes of one
    run the first holds it. UserError if another run has it, or the folder can't be made.
    """
    problem, file = "", None
    if jax.process_index() == 0:
        try:
            file = _acquire(workdir)
        except (UserError, OSError) as error:
            problem = in_words(error)
    problem = training.from_first_process(problem)
    if problem:
        raise UserError(problem)
    try:
        yield
    finally:
        if file is not None:
            _release(workdir, file)


def _acquire(workdir: pathlib.Path) -> Any:
    try:
        import fcntl
    except ImportError:  # on Windows
        return None
    path = workdir / LOCK
    while True:
        workdir.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = _holder(file.read())
            file.close()
            raise UserError(
                f"{workdir} is in use by {holder}. Wait for it, stop it, or give another --workdir."
            ) from None
        except OSError as error:
            file.close()
            print(
                f"note: {workdir} can't be locked ({error.strerror}): keep other runs out.", file=sys.stderr
            )
            return None
        # Whoever had it before may have removed the file in between.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    own = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
    with contextlib.suppress(OSError):  # on a full disk it holds without saying for whom
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), json.dumps(own).encode())
    return file


def _holder(text: str) -> str:
    try:
        found = json.loads(text)
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _release(workdir: pathlib.Path, file: Any) -> None:
    with contextlib.suppress(OSError):
        (workdir / LOCK).unlink()
        workdir.rmdir()  # where a run never began
    file.close()
