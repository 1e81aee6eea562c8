"""Variables of a network without compiling its `init`."""

import jax
import jax.numpy as jnp
import numpy as np


def filled(model, *inputs, seed=1):
    """Variables drawn by numpy: compiling `init` takes longer. Variances are positive."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs))

    def fill(path, leaf):
        values = rng.standard_normal(leaf.shape)
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 4
        name = path[-1].key
        if name in ("var", "scale", "slope"):
            return jnp.asarray(0.25 + 0.5 * np.abs(values), jnp.float32)
        if name == "u":
            return jnp.asarray(values / np.linalg.norm(values), jnp.float32)
        return jnp.asarray(values / np.sqrt(fan_in), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)
