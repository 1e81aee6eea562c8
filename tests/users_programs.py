"""Tests that train for long, in a process whose programs are compiled as users' are (see `conftest.py`)."""

import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any


def in_its_own_process(test: Callable[[], Any], *, devices: int = 4, minutes: float = 5) -> None:
    """Run a function without arguments, which imports what it needs, by its source; its assertions count."""
    source = textwrap.dedent(inspect.getsource(test))
    flags = f"--xla_force_host_platform_device_count={devices}" if devices > 1 else ""
    done = subprocess.run(
        [sys.executable, "-c", f"{source}\n{test.__name__}()"], env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True, text=True, timeout=60 * minutes, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
