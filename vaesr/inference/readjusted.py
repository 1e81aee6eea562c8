"""Batch statistics of samples at a temperature, in place of those of the training images' codes."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vaesr.distributions import example_keys, example_normal
from vaesr.files.arrays import read_npz
from vaesr.files.atomic import write_atomically
from vaesr.models import NoiseAutoencoder, Synchronised
from vaesr.runs.load import Run

_STATISTICS = "batch_stats"


def readjust(
    run: Run, temperature: float, *, passes: int = 500, batch_size: int = 16, seed: int = 0, keep: bool = True
) -> Run:
    """Lets the running statistics of batch normalisation settle on samples at a temperature.

    In training the decoder sees latents of posteriors. Samples of narrower priors have other statistics, and
    look wrong by those of training.

    Args:
        run: of a model with batch statistics that draws from its prior, such as `NVAE`.
        temperature: standard deviation of the latents, times the prior's; at least 0.
        passes: batches of samples that the statistics move on by, at least 1.
        batch_size: samples in a batch.
        seed: of their noise.
        keep: write the statistics into the run's folder, and take them from there the next time.

    Returns:
        The run with other statistics.

    Raises:
        ValueError: where the run's model has no batch statistics or no prior, or a knob is out of range.

    Source: Vahdat and Kautz 2020, appendix B; the authors' code takes 500 batches of 16.
    """
    if not (isinstance(run.model, NoiseAutoencoder) and isinstance(run.model, Synchronised)):
        raise ValueError(
            f"{run.path} holds the network {type(run.model).__name__}, which has no batch statistics to "
            "readjust"
        )
    if not temperature >= 0 or passes < 1 or batch_size < 1:
        raise ValueError(
            "temperature must be at least 0, passes and batch_size at least 1, got "
            f"{temperature}, {passes} and {batch_size}"
        )
    kept = None
    if keep and run.path.is_dir():
        words = f"{_digest(run)} {temperature} {passes} {batch_size} {seed}"
        name = hashlib.sha256(words.encode()).hexdigest()[:16]
        kept = run.path / "statistics" / f"{name}.npz"
    statistics = _read(kept, run.collections[_STATISTICS]) if kept else None
    if statistics is None:
        moved = _settled(run, temperature, passes=passes, batch_size=batch_size, seed=seed)
        statistics = jax.tree.map(np.asarray, moved)
        if kept:
            with contextlib.suppress(
                OSError
            ):  # no room, or no permission: they are found again the next time
                _write(kept, statistics)
    own = {**run.variables[run.player], _STATISTICS: statistics}
    return dataclasses.replace(run, variables={**run.variables, run.player: own}, _compiled={})


def _settled(run: Run, temperature: float, *, passes: int, batch_size: int, seed: int) -> Any:
    model: Any = run.model
    collections = run.collections
    params = {"params": collections["params"]}

    @functools.partial(jax.jit, donate_argnums=1)
    def settle(params: Any, statistics: Any, key: jax.Array) -> Any:
        def one(statistics: Any, number: jax.Array) -> tuple[Any, None]:
            keys = example_keys(key, number * batch_size + jnp.arange(batch_size))
            noise = temperature * example_normal(keys, (model.latent,))
            _, new = model.apply(
                {**params, _STATISTICS: statistics}, noise, True, method="mean_image", mutable=[_STATISTICS]
            )
            return new[_STATISTICS], None

        return jax.lax.scan(one, statistics, jnp.arange(passes))[0]

    start = jax.tree.map(jnp.array, collections[_STATISTICS])
    return settle(jax.device_put(params), start, jax.random.key(seed))


def _digest(run: Run) -> str:
    """Of the weights that the statistics belong to."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(run.collections):
        total.update(np.ascontiguousarray(leaf).data)
    return total.hexdigest()


def _write(path: pathlib.Path, statistics: Any) -> None:
    content = io.BytesIO()
    np.savez(content, **{"/".join(place): leaf for place, leaf in flatten_dict(statistics).items()})
    write_atomically(path, content.getvalue())


def _read(path: pathlib.Path, like: Any) -> Any:
    """What is kept; None where there is nothing, or something else."""
    try:
        found = read_npz(path)
    except (OSError, ValueError):
        return None
    expected = {"/".join(place): leaf for place, leaf in flatten_dict(dict(like)).items()}
    if {name: array.shape for name, array in found.items()} != {n: np.shape(x) for n, x in expected.items()}:
        return None
    return unflatten_dict({tuple(name.split("/")): array for name, array in found.items()})
