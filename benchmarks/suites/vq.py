"""The quantiser alone, and the transposed convolution of its decoder, in all their forms.

Exactness is the share of vectors whose code is not that of float64. The rows named "bfloat16 product" do what
a quantiser inside a bfloat16 network would do without care; they are here to be compared with.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.options import Options
from vaesr import quantisation
from vaesr.layers import conv_transpose2d

_EXACT = 4096  # vectors that float64 is asked about


def cases(options: Options) -> Iterator[timing.Case]:
    """Assignment, the statistics in both forms, and the transposed convolution.

    Assignment goes by number and dimension of codes; the convolution has its gradients, in all forms.
    """
    count = 1 << (17 if options.accelerator else 14)
    sizes = [(512, 64, 0.0), (512, 64, 4.0), (4096, 32, 4.0), (16384, 8, 4.0)]
    if options.smoke:
        count, sizes = 256, [(16, 4, 4.0)]
    for codes, dim, offset in sizes:
        yield _assignment(count, codes, dim, offset)
    for codes in sorted({size[0] for size in sizes}):
        yield _statistics(count, codes, 32 if not options.smoke else 4)
    yield _transposed(*((32, 8, 128, 64) if not options.smoke else (2, 4, 8, 4)))


def _vectors(count: int, dim: int, offset: float, seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, dim)) + offset, jnp.float32)


def _careless(z: jax.Array, codebook: jax.Array) -> jax.Array:
    """The nearest code with everything in bfloat16."""
    z, codebook = z.astype(jnp.bfloat16), codebook.astype(jnp.bfloat16)
    scores = jnp.square(codebook).sum(1)[None] - 2 * z @ codebook.T
    return scores.argmin(1).astype(jnp.int32)


def _products(z: jax.Array, codebook: jax.Array) -> jax.Array:
    """The nearest code with bfloat16 factors and float32 sums, not centred."""
    product = jax.lax.dot_general(
        z.astype(jnp.bfloat16), codebook.astype(jnp.bfloat16), (((1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )  # fmt: skip
    return (jnp.square(codebook).sum(1)[None] - 2 * product).argmin(1).astype(jnp.int32)


def _assignment(count: int, codes: int, dim: int, offset: float) -> timing.Case:
    z, codebook = _vectors(count, dim, offset, 0), _vectors(codes, dim, offset, 1)
    truth = _float64(np.asarray(z[:_EXACT], np.float64), np.asarray(codebook, np.float64))
    forms: dict[str, Callable[..., jax.Array]] = {
        "vaesr float32": quantisation.nearest_codes,
        "vaesr, chunks of 1024": functools.partial(quantisation.nearest_codes, chunk=1024),
        "bfloat16 product, float32 sum": _products,
        "all bfloat16": _careless,
    }
    sides = []
    for name, form in forms.items():
        compiled = jax.jit(form)
        wrong = float((np.asarray(compiled(z[:_EXACT], codebook)) != truth).mean())
        ours = name.startswith("vaesr")
        sides.append(
            timing.Side(
                name,
                "vaesr" if ours else "careless",
                functools.partial(_run, compiled, z, codebook),
                images_per_step=count,
                work_per_step=2.0 * count * codes * dim,
                check=functools.partial(_facts, wrong, ours),
                note=f"{name}: {100 * wrong:.3g} % of {len(truth)} codes are not float64's",
            )
        )
    kind = f"nearest of {codes} codes, D={dim}, mean {offset:g}, {count} vectors"
    return timing.Case("vq", kind, sides)


def _facts(wrong: float, ours: bool) -> dict[str, Any]:
    return {"exact": wrong <= 1e-3} if ours else {}


def _float64(z: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    scores = np.square(codebook).sum(1)[None] - 2 * z @ codebook.T
    return scores.argmin(1)


def _statistics(count: int, codes: int, dim: int) -> timing.Case:
    z = _vectors(count, dim, 0.0, 0)
    chosen = jnp.asarray(np.random.default_rng(2).integers(0, codes, count), jnp.int32)
    sides = []
    for form in ("one_hot", "segment"):
        compiled = jax.jit(functools.partial(quantisation.code_statistics, count=codes, form=form))
        sides.append(
            timing.Side(
                f"vaesr {form}", "vaesr", functools.partial(_run, compiled, z, chosen), images_per_step=count
            )
        )
    return timing.Case("vq", f"counts and sums of {codes} codes, D={dim}, {count} vectors", sides)


def _transposed(batch: int, side: int, channels: int, features: int) -> timing.Case:
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(batch, side, side, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(4, 4, channels, features)), jnp.float32)
    sides = []
    for form in ("auto", "direct", "vjp", "subpixel"):

        def loss(x: jax.Array, kernel: jax.Array, form: str = form) -> jax.Array:
            return jnp.square(conv_transpose2d(x, kernel, form=form)).mean()

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1)))
        run = functools.partial(_run, compiled, x, kernel)
        sides.append(timing.Side(f"vaesr {form}", "vaesr", run, images_per_step=batch))
    return timing.Case(
        "vq", f"transposed conv {channels}->{features}, {batch}x{side}x{side}, gradients", sides
    )


def _run(compiled: Any, first: jax.Array, second: jax.Array, calls: int) -> None:
    for _ in range(calls):
        result = compiled(first, second)
    jax.block_until_ready(result)
