"""What the authors' code of NVAE gave (`nvae_official`), in our layout."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from vaesr.pretrained.families import nvae as family

FOLDER = pathlib.Path(__file__).parent / "nvae_official"
# Relative to the largest of an array, in float64.
TOLERANCE = 1e-8


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of one file."""
    with np.load(FOLDER / f"{name}.npz") as archive:
        return dict(archive)


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """JAX has doubles inside."""
    with jax.enable_x64(True):
        yield


def images(array: np.ndarray) -> np.ndarray:
    """`[N, C, H, W]` to `[N, H, W, C]`."""
    return np.moveaxis(array, 1, -1)


def collections(found: dict[str, np.ndarray], names: Any, prefix: str, theirs: str = "") -> dict[str, Any]:
    """Variables of ours, of the arrays `prefix + NAME`; those that are not among `found` are left out.

    `names` are a family's, whose prefixes begin with `theirs`.
    """
    flat: dict[tuple[str, ...], np.ndarray] = {}
    leaves = {"kernel": "weight", "bias": "bias", "scale": "weight", **family._LEAVES}
    for place, name in names.items():
        name = name.removeprefix(theirs).removeprefix(".")
        normed = f"{prefix}{name}.running_mean" in found or (place[-1:] and place[-1].startswith("norm"))
        for ours, part in leaves.items():
            key = f"{prefix}{name}.{part}" if name else f"{prefix}{part}"
            if key not in found or ours == ("kernel" if normed else "scale"):
                continue
            collection = "batch_stats" if ours in ("mean", "var") else "params"
            flat[(collection, *place, ours)] = family._ours(ours, found[key])
    return unflatten_dict(flat)


def assert_close(found: Any, expected: Any, what: str = "", tolerance: float = TOLERANCE) -> None:
    """All within the tolerance, relative to the largest of the array."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, (what, found.shape, expected.shape)
    # What is zero by its nature is a sum of rounding errors.
    atol = max(tolerance * np.abs(expected).max(), 1e-12)
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=what)


def assert_trees_close(found: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    """The same for two trees of one structure."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, leaf), other in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        assert_close(leaf, other, jax.tree_util.keystr(path), tolerance)
