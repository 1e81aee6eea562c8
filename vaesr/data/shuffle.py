"""A shuffle without a stored permutation: each place of an epoch is computed by itself."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

_ROUNDS = 8
MAX_EXAMPLES = 2**27  # 32 summands below it fit uint32 in `epoch_and_offset`


def shuffle_index(key: Array, index: Array, size: int) -> Array:
    """The image of `index` under a random permutation of [0, size) that the key chooses.

    A generalised Feistel network on Z_a x Z_b with a*b just above `size`, walked along its cycle until it
    lands inside; integer arithmetic only, so every device and the host agree. It is a shuffle, not a cipher.
    The indices are int32 of any shape, each in [0, size); others give numbers in [0, size) that mean nothing.
    The size, in [1, 2^27), is static. Source: J. Black, P. Rogaway, "Ciphers with Arbitrary Finite Domains",
    CT-RSA 2002, section 5 (generalised Feistel) and section 3 (cycle walking).
    """
    if not 1 <= size < MAX_EXAMPLES:
        raise ValueError(f"shuffle_index: size must be in [1, {MAX_EXAMPLES}), got {size}")
    words = jax.random.bits(key, (_ROUNDS + 1,), jnp.uint32)
    a = math.isqrt(size - 1) + 1
    b = -(-size // a)

    def network(x: Array) -> Array:
        left, right = x % a, x // a
        for number in range(0, _ROUNDS, 2):
            left = (left + _mix(right ^ words[number]) % a) % a
            right = (right + _mix(left ^ words[number + 1]) % b) % b
        return right * a + left

    x = jnp.asarray(index).astype(jnp.uint32) % size
    x = network(x)
    # At most sqrt(size) of a*b numbers lie outside: most batches need no second turn.
    x = jax.lax.while_loop(
        lambda x: jnp.any(x >= size), lambda x: jnp.where(x >= size, network(x), x), x
    )  # fmt: skip
    # A rotation, so that tiny sizes, where the network has little room, still visit every place.
    return ((x + words[_ROUNDS] % size) % size).astype(jnp.int32)


def _mix(x: Array) -> Array:
    """A 32-bit integer hash (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def epoch_and_offset(step: Array, position: Array, *, batch_size: int, size: int) -> tuple[Array, Array]:
    """Divide the example number n = step * batch_size + position by the size, where n itself would overflow.

    The powers of two of `step` are divided in Python; what is left is a sum of 31 remainders. `step` is an
    int32 scalar and `position` `[B]` int32 the place in the global batch, both >= 0; `batch_size` (over all
    devices) and `size` (examples an epoch, in [1, 2^27)) are static. Returns epoch `[B]` uint32, modulo 2^32,
    and offset `[B]` uint32 in [0, size).
    """
    if not 1 <= size < MAX_EXAMPLES:
        raise ValueError(f"epoch_and_offset: size must be in [1, {MAX_EXAMPLES}), got {size}")
    if not 1 <= batch_size < 2**31:
        raise ValueError(f"epoch_and_offset: batch_size must be in [1, 2^31), got {batch_size}")
    parts = [divmod(batch_size << bit, size) for bit in range(31)]
    quotient = np.array([part[0] % 2**32 for part in parts], np.uint32)
    remainder = np.array([part[1] for part in parts], np.uint32)
    bit = (jnp.asarray(step).astype(jnp.uint32) >> np.arange(31, dtype=np.uint32)) & np.uint32(1)
    total = jnp.sum(bit * remainder, dtype=jnp.uint32)
    epoch = jnp.sum(bit * quotient, dtype=jnp.uint32) + total // np.uint32(size)
    offset = total % np.uint32(size) + jnp.asarray(position).astype(jnp.uint32)
    return epoch + offset // np.uint32(size), offset % np.uint32(size)
