"""Parameter trees as flat dicts from paths to arrays."""

from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]
"""Names from the root of a tree of parameters: `("Dense_0", "kernel")`."""


def flatten_paths(tree: Mapping[str, Any]) -> dict[Path, Any]:
    """List the leaves of nested dicts by path.

    Args:
        tree: nested dicts with names as keys.

    Returns:
        `{path: leaf}`, in the order of the sorted names.

    Raises:
        ValueError: if the tree is not a dict.
    """
    if not isinstance(tree, Mapping):
        raise ValueError(f"a tree of parameters must be nested dicts, got {type(tree).__name__}.")
    flat: dict[Path, Any] = {}
    for name in sorted(tree):
        if isinstance(tree[name], Mapping):
            flat |= {(name, *rest): leaf for rest, leaf in flatten_paths(tree[name]).items()}
        else:
            flat[(name,)] = tree[name]
    return flat


def unflatten_paths(flat: Mapping[Path, Any]) -> dict[str, Any]:
    """Undo `flatten_paths`.

    Args:
        flat: `{path: leaf}`.

    Returns:
        Nested dicts, without empty ones.
    """
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return tree
