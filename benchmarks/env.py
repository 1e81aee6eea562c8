"""What a result depends on beside the code: versions, flags, device. No path of the machine is kept."""

import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
import sys
from typing import Any

_PATH = re.compile(r"(?<![\w.])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\=,:;'\"]+[/\\])*([^\s/\\=,:;'\"]*)")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "piq", "scikit-image", "ncnn")


def scrub(text: str) -> str:
    """Replace every absolute path in a text by its last part: `/a/b/c.json` by `…/c.json`."""
    return _PATH.sub(lambda match: f"…/{match.group(1)}", text)


def collect(argv: list[str]) -> dict[str, Any]:
    """Everything about this run that a comparison must know, ready for JSON and without machine paths.

    `argv` are the arguments as given, without the program.
    """
    import jax

    device = jax.devices()[0]
    return {
        "git": _git(),
        "argv": [scrub(argument) for argument in argv],
        "flags": {
            name: scrub(value)
            for name, value in sorted(os.environ.items())
            if name == "XLA_FLAGS" or name.startswith(("JAX_", "XLA_PYTHON_", "CUDA_DEVICE_MAX"))
        },
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "backend": jax.default_backend(),
        "device": device.device_kind if device.platform != "cpu" else _cpu_model(),
        "device_count": jax.device_count(),
        "driver": _nvidia(),
        "torch_threads": _torch_threads(),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _command(*words: str) -> str | None:
    """What a command prints, or None where it is missing or fails."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=20, cwd=pathlib.Path(__file__).parent, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _git() -> dict[str, Any] | None:
    sha = _command("git", "rev-parse", "HEAD")
    return None if sha is None else {"sha": sha, "dirty": bool(_command("git", "status", "--porcelain"))}


def _cpu_model() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    fields = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line)
    name = fields.get("model name", platform.processor() or "unknown")
    return f"{name} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"


def _nvidia() -> str | None:
    """Driver, clock and power limit as nvidia-smi reads them; nothing is set."""
    return _command(
        "nvidia-smi",
        "--query-gpu=driver_version,clocks.sm,clocks.max.sm,power.limit",
        "--format=csv,noheader",
    )


def _torch_threads() -> int | None:
    torch = sys.modules.get("torch")
    return None if torch is None else torch.get_num_threads()
