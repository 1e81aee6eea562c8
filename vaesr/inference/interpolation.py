"""Networks between two trained ones."""

from typing import Any, TypeVar

import jax

Tree = TypeVar("Tree", bound=Any)


def interpolate(first: Tree, second: Tree, alpha: float) -> Tree:
    """Mix the parameters of two networks of one architecture.

    With ESRGAN's two stages, alpha trades fidelity (0: the PSNR network) for detail (1: the GAN).

    Args:
        first: a tree of arrays.
        second: one of the same structure and shapes.
        alpha: share of the second, in [0, 1].

    Returns:
        `(1 - alpha) * first + alpha * second`; exactly `first` at 0 and `second` at 1.

    Raises:
        ValueError: if the trees differ or alpha is out of range.

    Source: Wang et al. 2018 (ESRGAN), equation 4.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}.")
    if jax.tree.map(lambda _: 0, first) != jax.tree.map(lambda _: 0, second):
        raise ValueError("the two networks have different parameters; only those of one architecture mix.")

    def mix(path: Any, a: Any, b: Any) -> Any:
        if a.shape != b.shape:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"{name} has shape {a.shape} in one network and {b.shape} in the other.")
        # The ends are given back as they are: 0 times infinity is no 0.
        return a if alpha == 0 else b if alpha == 1 else (1 - alpha) * a + alpha * b

    return jax.tree_util.tree_map_with_path(mix, first, second)
