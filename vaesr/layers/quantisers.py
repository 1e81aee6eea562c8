"""Quantisers as Linen layers of one signature: a learned codebook, finite scalars, residual codebooks."""

from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from vaesr import quantisation as q

COLLECTION = "codebook"
CodebookUpdate = Literal["ema", "loss"]
InitialCodes = Literal["uniform", "normal", "kmeans"]


class Quantised(NamedTuple):
    """What a quantiser makes of `[B, ..., D]`.

    Attributes:
        values: `[B, ..., D]` float32, what the decoder gets; the gradient passes to the encoder.
        codes: int32 `[B, ...]`; `[B, ..., Q]` of a residual quantiser.
        commitment: `[B]` float32, mean squared distance to the codes, with a gradient for the encoder.
        codebook: `[B]` float32, the same with a gradient for the codes; 0 where they don't learn by it.
        counts: `[K]` float32, how often each code occurs in the batch, over all devices.
    """

    values: jax.Array
    codes: jax.Array
    commitment: jax.Array
    codebook: jax.Array
    counts: jax.Array


class VectorQuantiser(nn.Module):
    """Every vector becomes the nearest of K codes.

    With `update="ema"` codes and averages live in the variable collection "codebook" and change in training
    only, after they were used; with gradient accumulation they move from micro-batch to micro-batch. Under
    one program for all devices the statistics are those of the global batch; under `pmap` give `axis_name`.
    Everything is float32, whatever comes in.

    Attributes:
        codes: K, codes in the codebook.
        update: "ema", moving averages of the vectors; or "loss", a gradient from `Quantised.codebook`.
        decay: of the moving averages.
        epsilon: Laplace smoothing of their counts.
        initial: first codes: "uniform" in ±1/K, "normal", or "kmeans" of the first
            training batch (with `update="ema"`).
        revive_below: codes whose average count per batch is below this are replaced by vectors of the batch
            in training; 0 never does. Needs `update="ema"`.
        cosine: compare directions: vectors and codes are scaled to length 1.
        code_dim: dimensions of the codes; the vectors are mapped linearly to them and back. None: as many as
            the vectors have.
        axis_name: of the axis that `pmap` maps.
        gradient: "straight_through" or "rotation".
    """

    codes: int = 512
    update: CodebookUpdate = "ema"
    decay: float = 0.99
    epsilon: float = 1e-5
    initial: InitialCodes = "uniform"
    revive_below: float = 0.0
    cosine: bool = False
    code_dim: int | None = None
    axis_name: str | None = None
    gradient: str = "straight_through"
    code_axes: ClassVar[int] = 0  # axes of the codes beyond those of the vectors

    @property
    def code_count(self) -> int:
        """K, the number of codes."""
        return self.codes

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> Quantised:
        """Quantise.

        Args:
            z: `[B, ..., D]`, floating point.
            train: let the codebook learn, if "codebook" is mutable.
            key: one random key, the same on all devices; needed in training by "kmeans" and `revive_below`.

        Returns:
            See `Quantised`.

        Raises:
            ValueError: if a field is out of range or the key is missing.
        """
        self._check(train, key)
        width = z.shape[-1]
        z = z.astype(jnp.float32)
        inner = z if self.code_dim is None else self._dense(self.code_dim, "down")(z)
        inner = normalise(inner) if self.cosine else inner
        flat = inner.reshape(-1, inner.shape[-1])
        codebook, state = self._codebook(flat, train, key)
        codes = q.nearest_codes(inner, codebook)
        chosen = q.lookup_codes(codebook, codes)
        counts, sums = q.code_statistics(flat, codes.reshape(-1), self.codes, axis_name=self.axis_name)
        if (
            state is not None
            and train
            and not self.is_initializing()
            and self.is_mutable_collection(COLLECTION)
        ):
            self._learn(state, counts, sums, flat, key)
        through = q.rotate_to if self.gradient == "rotation" else q.straight_through
        values = through(inner, chosen)
        if self.code_dim is not None:
            values = self._dense(width, "up")(values)
        fixed = lax.stop_gradient(chosen)
        commitment = _per_example(inner - fixed)
        own = _per_example(lax.stop_gradient(inner) - chosen) if state is None else jnp.zeros_like(commitment)
        return Quantised(values, codes, commitment, own, counts)

    def lookup(self, codes: jax.Array) -> jax.Array:
        """Give what the decoder gets for codes.

        Args:
            codes: `[B, ...]` integers in [0, K).

        Returns:
            `[B, ..., D]` float32.
        """
        if self.update == "ema":
            values: jax.Array = self.get_variable(COLLECTION, "codes")
        else:
            values = self.get_variable("params", "codes")
        values = normalise(values) if self.cosine else values
        chosen = q.lookup_codes(values, codes)
        return chosen if self.code_dim is None else _linear(self.get_variable("params", "up"), chosen)

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, name=name, precision=lax.Precision.HIGHEST)

    def _codebook(
        self, flat: jax.Array, train: bool, key: jax.Array | None
    ) -> tuple[jax.Array, q.CodebookState | None]:
        """The codes to compare with, and the state behind them if there is one."""
        shape = (self.codes, flat.shape[-1])
        if self.update == "loss":
            codes = self.param("codes", self._first_codes, shape)
            return (normalise(codes) if self.cosine else codes), None
        # Arrays by name, as checkpoints keep them.
        first = lambda: self._first_codes(self.make_rng("params"), shape)  # noqa: E731
        codes = self.variable(COLLECTION, "codes", first).value
        fresh = q.CodebookState.create(codes)
        averages = [
            self.variable(COLLECTION, name, lambda name=name: getattr(fresh, name)).value
            for name in fresh._fields[1:]
        ]
        state = q.CodebookState(codes, *averages)
        if self.initial == "kmeans" and train and not self.is_initializing():
            # The weight of the averages is 0 until the first update: the flag for the first batch.
            # Enough vectors for good codes; more would make the step that compiles this a slow one.
            assert key is not None
            codes = lax.cond(
                state.weight == 0,
                lambda: q.kmeans(flat, self.codes, jax.random.fold_in(key, 1), axis_name=self.axis_name),
                lambda: state.codes,
            )
            state = state._replace(codes=codes)
        codes = state.codes
        return (normalise(codes) if self.cosine else codes), state

    def _learn(
        self,
        state: q.CodebookState,
        counts: jax.Array,
        sums: jax.Array,
        flat: jax.Array,
        key: jax.Array | None,
    ) -> None:
        new = q.ema_update(state, counts, sums, decay=self.decay, epsilon=self.epsilon)
        if self.revive_below > 0:
            assert key is not None
            new, _ = q.revive_codes(
                new, flat, jax.random.fold_in(key, 2), threshold=self.revive_below, axis_name=self.axis_name
            )
        for name, value in new._asdict().items():
            self.put_variable(COLLECTION, name, value)

    def _first_codes(self, key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        if self.initial == "normal":
            return jax.random.normal(key, shape)
        bound = 1.0 / shape[0]
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

    def _check(self, train: bool, key: jax.Array | None) -> None:
        for name, value, known in (
            ("update", self.update, ("ema", "loss")),
            ("initial", self.initial, ("uniform", "normal", "kmeans")),
            ("gradient", self.gradient, ("straight_through", "rotation")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
        if self.codes < 1 or self.revive_below < 0:
            raise ValueError(
                f"codes must be at least 1 and revive_below at least 0, got {self.codes} and "
                f"{self.revive_below}."
            )
        if self.update == "loss" and (self.revive_below or self.initial == "kmeans"):
            raise ValueError('revive_below and initial="kmeans" need update="ema".')
        if train and key is None and (self.revive_below or self.initial == "kmeans"):
            raise ValueError('key is needed in training with revive_below or initial="kmeans".')


class FiniteScalarQuantiser(nn.Module):
    """Every vector becomes a point of a small grid (FSQ): no codebook, nothing to collapse.

    Attributes:
        levels: of each dimension of the grid, at least 2; vectors are mapped linearly to them and back.
        axis_name: of the axis that `pmap` maps, for the counts.

    Source: Mentzer et al. 2023.
    """

    levels: tuple[int, ...] = (8, 5, 5, 5)
    axis_name: str | None = None
    code_axes: ClassVar[int] = 0

    @property
    def code_count(self) -> int:
        """The number of grid points."""
        return q.code_count(self.levels)

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> Quantised:
        """Quantise; see `VectorQuantiser.__call__`. Neither `train` nor `key` matters."""
        del train, key
        width, z = z.shape[-1], z.astype(jnp.float32)
        inner = nn.Dense(len(self.levels), name="down", precision=lax.Precision.HIGHEST)(z)
        points, codes = q.finite_scalar(inner, self.levels)
        values = nn.Dense(width, name="up", precision=lax.Precision.HIGHEST)(points)
        counts = jax.nn.one_hot(codes.reshape(-1), self.code_count).sum(axis=0)
        counts = counts if self.axis_name is None else lax.psum(counts, self.axis_name)
        zeros = jnp.zeros(z.shape[:1], jnp.float32)
        return Quantised(values, codes, zeros, zeros, counts)

    def lookup(self, codes: jax.Array) -> jax.Array:
        """Give what the decoder gets for codes `[B, ...]`: `[B, ..., D]` float32."""
        return _linear(self.get_variable("params", "up"), q.finite_scalar_values(codes, self.levels))


class ResidualQuantiser(nn.Module):
    """Every vector becomes a sum of codes: each codebook quantises what the ones before left over.

    Attributes:
        depth: Q, the number of codebooks, at least 1.
        codes: K, codes in each.
        update: see `VectorQuantiser`, as for the fields below.
        decay: of the moving averages.
        initial: first codes.
        revive_below: replace codes used less often per batch.
        axis_name: of the axis that `pmap` maps.

    Source: Zeghidour et al. 2021 (SoundStream), section III-C; Lee et al. 2022 (RQ-VAE).
    """

    depth: int = 4
    codes: int = 512
    update: CodebookUpdate = "ema"
    decay: float = 0.99
    initial: InitialCodes = "uniform"
    revive_below: float = 0.0
    axis_name: str | None = None
    code_axes: ClassVar[int] = 1  # the one over the codebooks

    @property
    def code_count(self) -> int:
        """K, the number of codes in each codebook."""
        return self.codes

    def setup(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, got {self.depth}.")
        self.levels = [
            VectorQuantiser(
                codes=self.codes, update=self.update, decay=self.decay, initial=self.initial,
                revive_below=self.revive_below, axis_name=self.axis_name,
            )
            for _ in range(self.depth)
        ]  # fmt: skip

    def __call__(self, z: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> Quantised:
        """Quantise; see `VectorQuantiser.__call__`. The counts are those of all codebooks together."""
        z = z.astype(jnp.float32)
        rest, parts = z, []
        for number, level in enumerate(self.levels):
            own = None if key is None else jax.random.fold_in(key, 100 + number)
            part = level(rest, train=train, key=own)
            parts.append(part)
            # The codes alone are taken off, so that every level commits the encoder by itself.
            rest = rest - lax.stop_gradient(part.values)
        chosen = z - rest
        total = lambda name: sum(getattr(part, name) for part in parts)  # noqa: E731
        return Quantised(
            q.straight_through(z, lax.stop_gradient(chosen)),
            jnp.stack([part.codes for part in parts], axis=-1),
            total("commitment"),
            total("codebook"),
            total("counts"),
        )

    def lookup(self, codes: jax.Array) -> jax.Array:
        """Give what the decoder gets for codes `[B, ..., Q]`: `[B, ..., D]` float32."""
        found = [level.lookup(codes[..., number]) for number, level in enumerate(self.levels)]
        return jnp.stack(found).sum(axis=0)


def normalise(x: jax.Array) -> jax.Array:
    """Scale vectors `[..., D]` to length 1; a vector of zeros stays."""
    return x / jnp.sqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)


def _linear(weights: Any, x: jax.Array) -> jax.Array:
    """`nn.Dense` of given weights."""
    bias = weights["bias"].reshape((1,) * (x.ndim - 1) + (-1,))
    return jnp.matmul(x, weights["kernel"], precision=lax.Precision.HIGHEST) + bias


def _per_example(difference: jax.Array) -> jax.Array:
    """Mean square over all axes but the first, `[B]`."""
    return jnp.square(difference.reshape(difference.shape[0], -1)).mean(axis=1)
