"""What this machine can do today: the ceilings the other rows are held against.

Random data throughout: a matrix product of zeros runs faster than the real one on power-limited chips.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import timing


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Shapes of the three probes, and what the matmul and the convolution compute in.

    `matmul` is the side of the square matrices, `conv` `(batch, height, width, channels)` of the 3x3
    convolution.
    """

    matmul: int
    copy_mib: int
    conv: tuple[int, int, int, int]
    dtype: str


def sizes(*, accelerator: bool, smoke: bool) -> Sizes:
    """The probes' shapes for a device; with `smoke` those that take milliseconds."""
    if smoke:
        return Sizes(256, 8, (1, 16, 16, 256), "float32")
    if accelerator:
        return Sizes(8192, 1024, (16, 48, 48, 256), "bfloat16")
    return Sizes(1024, 256, (1, 48, 48, 256), "float32")


def cases(shape: Sizes) -> list[timing.Case]:
    """The matrix product, the copy and the convolution, ready to be timed; the copy's work is in bytes."""
    keys = jax.random.split(jax.random.key(0), 5)
    dtype = jnp.dtype(shape.dtype)
    n = shape.matmul
    # Weights scaled so that a chain of products keeps its magnitude.
    a = jax.random.normal(keys[0], (n, n), dtype)
    w = (jax.random.normal(keys[1], (n, n)) / math.sqrt(n)).astype(dtype)
    x = jax.random.normal(keys[2], (shape.copy_mib * 2**18,), jnp.float32)
    batch, height, width, channels = shape.conv
    image = jax.random.normal(keys[3], shape.conv, dtype)
    kernel = (jax.random.normal(keys[4], (3, 3, channels, channels)) / math.sqrt(9 * channels)).astype(dtype)

    def conv(image: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    conv_flops = 2.0 * batch * height * width * 9 * channels * channels
    return [
        _case(f"matmul {n}^3 {shape.dtype}", jnp.matmul, a, w, 2.0 * n**3),
        _case(
            f"copy {shape.copy_mib} MiB", lambda x, one: x + one, x, jnp.float32(1e-3), 2.0 * x.nbytes, "B"
        ),
        _case(f"conv3x3 {'x'.join(map(str, shape.conv))} {shape.dtype}", conv, image, kernel, conv_flops),
    ]


def _case(
    name: str,
    function: Callable[..., jax.Array],
    carry: jax.Array,
    other: jax.Array,
    work: float,
    unit: str = "FLOP",
) -> timing.Case:
    compiled = jax.jit(function, donate_argnums=0).lower(carry, other).compile()
    state = [carry]

    def run(calls: int) -> None:
        value = state.pop()
        for _ in range(calls):
            value = compiled(value, other)
        state.append(jax.block_until_ready(value))

    return timing.Case("peaks", name, [timing.Side("jax", "vaesr", run, 1, work_per_step=work, unit=unit)])
