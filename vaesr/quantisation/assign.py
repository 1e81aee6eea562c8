"""Which code is nearest, and what it looks like: exact in float32, in bounded memory."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from vaesr.forms import by_platform

# Elements of the distance matrix that are alive at once: 64 MB of float32.
_CELLS = 1 << 24
# What stays in a CPU core's cache: a third faster.
_CPU_CELLS = 1 << 19
# Above this many codes the sorted segment sum is cheaper than the one-hot matmul on accelerators, too.
_ONE_HOT_CODES = 2048


def nearest_codes(z: jax.Array, codebook: jax.Array, *, chunk: int = 0) -> jax.Array:
    """Find the nearest code of every vector by Euclidean distance.

    Exact in float32 whatever the type of the inputs: bfloat16 products pick another code for up to half of
    the vectors whose mean is far from 0. Both sides are centred by the codebook's mean first, which costs
    nothing and takes most of what float32 would lose.

    Args:
        z: vectors `[..., D]`, floating point.
        codebook: codes `[K, D]`, floating point.
        chunk: vectors whose K distances are in memory at once; 0 chooses.

    Returns:
        Indices `[...]`, int32; of equally near codes the first. No gradient flows.

    Raises:
        ValueError: if the shapes don't fit or `chunk` is negative.
    """
    if z.ndim < 1 or codebook.ndim != 2 or z.shape[-1] != codebook.shape[1]:
        raise ValueError(f"z and codebook must be [..., D] and [K, D], got {z.shape} and {codebook.shape}.")
    if chunk < 0:
        raise ValueError(f"chunk must be at least 0, got {chunk}.")
    z, codebook = lax.stop_gradient((z.astype(jnp.float32), codebook.astype(jnp.float32)))
    centre = codebook.mean(axis=0, keepdims=True)
    codes = codebook - centre
    flat = z.reshape(-1, z.shape[-1]) - centre
    half_norms = 0.5 * jnp.square(codes).sum(axis=1)[None]

    def search(cells: int, first_least: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
        def nearest(part: jax.Array, codes: jax.Array, half_norms: jax.Array) -> jax.Array:
            # |z|² is the same for all codes: the least |e|²/2 - z·e is the nearest.
            scores = half_norms - jnp.matmul(part, codes.T, precision=lax.Precision.HIGHEST)
            return first_least(scores)

        def all_nearest(flat: jax.Array, *of_codes: jax.Array) -> jax.Array:
            pieces = _pieces(flat.shape[0], chunk or max(cells // codes.shape[0], 1))
            if pieces == 1:
                return nearest(flat, *of_codes)
            found = lax.map(lambda part: nearest(part, *of_codes), _cut(flat, pieces))
            return found.T.reshape(-1)[: flat.shape[0]]

        return all_nearest

    found = by_platform(
        flat, codes, half_norms,
        cpu=search(min(_CELLS, _CPU_CELLS), _first_least),
        default=search(_CELLS, lambda scores: jnp.argmin(scores, axis=1).astype(jnp.int32)),
    )  # fmt: skip
    return found.reshape(z.shape[:-1])


def _first_least(scores: jax.Array) -> jax.Array:
    """`argmin` over the last axis of `[N, K]`, by two minima of floats, which XLA's CPU back end vectorises.

    That takes it half the time.
    """
    count = scores.shape[1]
    places = lax.broadcasted_iota(jnp.float32, scores.shape, 1)
    least = scores.min(axis=1, keepdims=True)
    first = jnp.where(scores <= least, places, jnp.float32(count)).min(axis=1)
    return jnp.minimum(first, count - 1).astype(jnp.int32)  # NaN is no number's neighbour


def _pieces(count: int, chunk: int) -> int:
    """How many pieces of at most `chunk` to cut into: if possible so many that none is filled up."""
    least = max(math.ceil(count / chunk), 1)
    return next((pieces for pieces in range(least, min(4 * least, count) + 1) if count % pieces == 0), least)


def _cut(x: jax.Array, pieces: int) -> jax.Array:
    """`[N, D]` as `[pieces, n, D]`, filled up with zeros; strided, so that no device's vectors move."""
    size = math.ceil(x.shape[0] / pieces)
    padded = jnp.pad(x, ((0, size * pieces - x.shape[0]), (0, 0)))
    return padded.reshape(size, pieces, -1).swapaxes(0, 1)


@jax.custom_vjp
def lookup_codes(codebook: jax.Array, codes: jax.Array) -> jax.Array:
    """Read the vectors of codes; the gradient for the codebook is deterministic.

    Args:
        codebook: codes `[K, D]`.
        codes: integers `[...]` in [0, K).

    Returns:
        `[..., D]` in the codebook's type.
    """
    return jnp.take(codebook, codes, axis=0, mode="clip")


def _lookup_forward(codebook: jax.Array, codes: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return lookup_codes(codebook, codes), (codebook, codes)


def _lookup_backward(kept: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, None]:
    codebook, codes = kept
    _, sums = code_statistics(g, codes, codebook.shape[0])
    return sums.astype(codebook.dtype), None


lookup_codes.defvjp(_lookup_forward, _lookup_backward)


def code_statistics(
    z: jax.Array, codes: jax.Array, count: int, *, axis_name: str | None = None, form: str = "auto"
) -> tuple[jax.Array, jax.Array]:
    """Count how often each code occurs and sum the vectors that chose it, in an order that never changes.

    Args:
        z: vectors `[..., D]`.
        codes: the code of each, `[...]` integers in [0, K).
        count: K, the number of codes.
        axis_name: of a mapped axis (`pmap`) to add up over.
        form: "one_hot" is a matmul, fast on accelerators for up to some thousands of codes; "segment" sorts
            and adds up runs; "auto" chooses by K and the
            platform that the program is compiled for.

    Returns:
        Counts `[K]` and sums `[K, D]`, float32.

    Raises:
        ValueError: if the shapes don't fit or the form is unknown.
    """
    if z.shape[:-1] != codes.shape:
        raise ValueError(f"z and codes must be [..., D] and [...], got {z.shape} and {codes.shape}.")
    if form not in ("auto", "one_hot", "segment"):
        raise ValueError(f'form must be "auto", "one_hot" or "segment", got {form!r}.')
    z, codes = lax.stop_gradient(z.astype(jnp.float32)).reshape(-1, z.shape[-1]), codes.reshape(-1)
    # A column of ones makes the count one more sum.
    vectors = jnp.concatenate([z, jnp.ones((z.shape[0], 1), jnp.float32)], axis=1)
    segment = functools.partial(_segment_sums, count=count)
    one_hot = functools.partial(_one_hot_sums, count=count, cells=_CELLS)
    if form == "one_hot":
        on_cpu = functools.partial(_one_hot_sums, count=count, cells=min(_CELLS, _CPU_CELLS))
        totals = by_platform(vectors, codes, cpu=on_cpu, default=one_hot)
    elif form == "segment" or count > _ONE_HOT_CODES:
        totals = segment(vectors, codes)
    else:
        totals = by_platform(vectors, codes, cpu=segment, default=one_hot)
    if axis_name is not None:
        totals = lax.psum(totals, axis_name)
    return totals[:, -1], totals[:, :-1]


def _segment_sums(vectors: jax.Array, codes: jax.Array, count: int) -> jax.Array:
    """Sums `[K, D]` of the vectors of each code, sorted into runs."""
    order = jnp.argsort(codes, stable=True)
    return jax.ops.segment_sum(vectors[order], codes[order], num_segments=count, indices_are_sorted=True)


def _one_hot_sums(vectors: jax.Array, codes: jax.Array, count: int, cells: int) -> jax.Array:
    """Sums `[K, D]` of the vectors of each code as matrix products, of pieces whose one-hot codes fit."""

    def sums(part: jax.Array) -> jax.Array:
        chosen = jax.nn.one_hot(part[:, 0].astype(jnp.int32), count, dtype=jnp.float32)
        return lax.dot_general(chosen, part[:, 1:], (((0,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)

    # One array, so that it is cut once; float32 holds the number of any code that a one-hot matrix is for.
    both = jnp.concatenate([codes[:, None].astype(jnp.float32), vectors], axis=1)
    pieces = _pieces(both.shape[0], max(cells // count, 1))
    if pieces == 1:
        return sums(both)
    start = jnp.zeros((count, vectors.shape[1]), jnp.float32)
    # Vectors that fill up the last piece are zeros, the column of ones too: they count for nothing.
    return lax.scan(lambda total, part: (total + sums(part), None), start, _cut(both, pieces))[0]
