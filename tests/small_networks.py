"""Small networks that tests of several rooms share, each in the test file of its network and found there.

A file of `tests/models` may have dictionaries of these names:

    SMALL_UPSCALERS  networks that compile in moments, by name
    ONE_SIZE         of these names the formats that need a size at the export
    STORED           networks to be written with the names of each of their families, by name
    WRITTEN          of each family a published network, how many arrays it has and a few of their names
    PEERS            of each class its peer in `benchmarks.peers.torch_sr`, and the fields that it takes
"""

import importlib
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp


def found(constant: str) -> dict[Any, Any]:
    """The entries of all dictionaries of this name."""
    entries: dict[Any, Any] = {}
    for path in sorted((pathlib.Path(__file__).parent / "models").glob("test_models_*.py")):
        if re.search(rf"^{constant} = ", path.read_text(encoding="utf-8"), re.M):
            own = getattr(importlib.import_module(path.stem), constant)
            assert not set(entries) & set(own), f"{path.name} has names of {constant} that another file has"
            entries |= own
    return entries


def count_parameters(model: Any, *, side: int = 16) -> int:
    """How many numbers a network has, all of them float32, without making them."""
    tree = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, side, side, 3))))["params"]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(tree))
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
