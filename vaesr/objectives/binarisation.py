"""Binary images from grey ones: published Bernoulli figures differ by nats between these ways."""

import jax
import jax.numpy as jnp

from vaesr.distributions import example_bernoulli, example_keys, example_uniform
from vaesr.objectives.objective import Batch

BINARISATIONS = ("none", "dynamic", "fixed", "threshold")
# One drawing of every data set, the same for all runs.
_FIXED_SEED = 0


def binarise(images: jax.Array, keys: jax.Array) -> jax.Array:
    """Draw binary images whose pixels are ones with the probability of their grey value.

    Args:
        images: `[B, ...]` grey values in [0, 1].
        keys: random keys `[B]`, from `example_keys`.

    Returns:
        `[B, ...]` zeros and ones, float32.

    Source: Salakhutdinov and Murray 2008; drawn anew at every step as in Burda et al. 2016, section 5.
    """
    return example_bernoulli(keys, jnp.asarray(images, jnp.float32))


def binarise_batch(batch: Batch, *, binarisation: str, key: jax.Array) -> jax.Array:
    """Turn a batch's grey images into what a VAE is trained or measured on.

    Args:
        batch: `image` `[B, ...]` in [0, 1]; `position` `[B]` integers, `arange(B)` if absent; for "fixed"
            `index` `[B]` integers, which image of the data set each one is.
        binarisation: "none" leaves the grey values; "dynamic" draws bits from `key` and `position`, so anew
            at every step; "fixed" draws each image's bits once and for all, from its index alone, so that
            training and evaluation, epochs and runs see the same binary data set; "threshold" is
            `image > 0.5`.
        key: the step's random key; "dynamic" alone uses it.

    Returns:
        `[B, ...]` float32.

    Raises:
        ValueError: if `binarisation` is unknown or the batch lacks an index that is needed.

    Source: Salakhutdinov and Murray 2008 ("fixed"); Burda et al. 2016, section 5 ("dynamic").
    """
    if binarisation not in BINARISATIONS:
        raise ValueError(f"binarisation must be one of {', '.join(BINARISATIONS)}, got {binarisation!r}.")
    images = jnp.asarray(batch["image"], jnp.float32)
    if binarisation == "threshold":
        return (images > 0.5).astype(jnp.float32)
    if binarisation == "dynamic":
        return binarise(images, example_keys(key, batch.get("position", jnp.arange(images.shape[0]))))
    if binarisation == "fixed":
        if "index" not in batch:
            raise ValueError(
                'binarisation "fixed" needs batch["index"] [B], each image\'s index in the data set; '
                f"the batch holds {sorted(batch)}."
            )
        return _fixed_bits(images, example_keys(jax.random.key(_FIXED_SEED), batch["index"]))
    return images


def _fixed_bits(images: jax.Array, keys: jax.Array) -> jax.Array:
    """`binarise` on 16-bit levels, whole numbers: a byte over 255 may differ in its last bit between two
    compiled programs, and no pixel may flip for that."""
    level = jnp.floor(images * 65535.0 + 0.5)
    return (jnp.floor(example_uniform(keys, images.shape[1:]) * 65535.0) < level).astype(jnp.float32)
