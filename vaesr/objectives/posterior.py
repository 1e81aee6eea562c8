"""Drawing the latents of a model, decoding them and weighing them; shared by objectives and evaluation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaesr.distributions import Normal, example_keys, example_normal, kl_standard_normal
from vaesr.objectives.binarisation import binarise_batch
from vaesr.objectives.likelihoods import Likelihood
from vaesr.objectives.objective import Batch

Encode = Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
"""`encode(params, x [B, ...]) -> (mean_q, log_var_q)`, each `[B, latent...]`."""

Decode = Callable[[Any, jax.Array], Any]
"""`decode(params, z [B, latent...]) -> outputs` that the likelihood understands."""

EncodeFeatures = Callable[[Any, jax.Array], Any]
"""`encode(params, x [B, ...]) -> features`: any tree, all that `draw` needs to know of the data."""


class Draws(NamedTuple):
    """Samples of all latents of a model, decoded and weighed; S samples for each of B examples.

    Attributes:
        outputs: what the likelihood takes, for `S * B` examples, the sample the slower axis.
        log_ratio: `[S, B]` nats, `log p(z) - log q(z | x)` summed over all latents.
        kl: `[S, B, G]` nats, one term per latent (or group of latents), whose sum has the mean
            KL(q || p): in closed form given the layers drawn before where there is one, otherwise
            `log q - log p` of the draw. `[1, B, G]` where it doesn't depend on the draw.
    """

    outputs: Any
    log_ratio: jax.Array
    kl: jax.Array


Draw = Callable[[Any, Any, jax.Array, jax.Array], tuple[Any, jax.Array, jax.Array]]
"""`draw(params, features, keys [B], indices [S]) -> Draws`, or a plain tuple of its three entries.

Sample s of example b uses `fold_in(keys[b], indices[s])` and nothing else, so that neither the rest of the
batch nor the number of samples changes it.
"""


def read_batch(batch: Batch, key: jax.Array, *, binarisation: str) -> tuple[jax.Array, jax.Array]:
    """Take the images and one key per example out of a batch.

    Args:
        batch: `image` `[B, ...]`, float, and `position` `[B]`; `arange(B)` if absent. For fixed bits also
            `index` `[B]`.
        key: the step's random key.
        binarisation: how bits are made of grey values, see `binarise_batch`.

    Returns:
        Images `[B, ...]` float32, and keys `[B]` for the latents.

    Raises:
        ValueError: if there are no images, they are not float `[B, ...]`, or there is no `index` though the
            binarisation needs one.
    """
    if "image" not in batch:
        raise ValueError(f'the batch must hold "image" [B, ...], got the names {sorted(batch)}.')
    images = jnp.asarray(batch["image"])
    if images.ndim < 2 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f'batch["image"] must be float [B, ...] with values in [0, 1], got shape {images.shape} and '
            f"dtype {images.dtype}; divide 8-bit images by 255."
        )
    images = images.astype(jnp.float32)
    position = batch.get("position", jnp.arange(images.shape[0]))
    # Two independent streams, so that switching binarisation on leaves the latents' noise alone.
    bits_key = jax.random.fold_in(key, 1)
    images = binarise_batch({**batch, "image": images}, binarisation=binarisation, key=bits_key)
    return images, example_keys(jax.random.fold_in(key, 0), position)


def encode_checked(encode: Encode, params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Encode images and check what comes back.

    Args:
        encode: the encoder.
        params: its parameters.
        images: `[B, ...]`.

    Returns:
        `mean_q` and `log_var_q`, both `[B, latent...]`, float32.

    Raises:
        ValueError: if the encoder's outputs don't fit together or don't have the batch axis of the images.
    """
    mean_q, log_var_q = encode(params, images)
    if mean_q.shape != log_var_q.shape or mean_q.ndim < 2 or mean_q.shape[0] != images.shape[0]:
        raise ValueError(
            f"encode must return mean_q and log_var_q of one shape [B, latent] for images {images.shape}, "
            f"got {mean_q.shape} and {log_var_q.shape}."
        )
    return mean_q.astype(jnp.float32), log_var_q.astype(jnp.float32)


def posterior_noise(keys: jax.Array, indices: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw the standard normal noise of the samples.

    Args:
        keys: random keys `[B]`, from `example_keys`.
        indices: `[S]` int32, the samples' numbers; sample s of an example is always the same draw, so that
            chunks don't change it.
        shape: shape of one example's latents.

    Returns:
        `[S, B, *shape]` float32.
    """
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    return jax.vmap(lambda index: example_normal(fold(keys, index), shape))(indices)


def draw_latents(
    mean_q: jax.Array, log_var_q: jax.Array, keys: jax.Array, indices: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draw reparameterised samples of q(z | x).

    Args:
        mean_q: `[B, latent...]`.
        log_var_q: same shape.
        keys: random keys `[B]`, from `example_keys`.
        indices: `[S]` int32, the samples' numbers.

    Returns:
        `z` and the standard normal noise that it was made of, both `[S, B, latent...]`.
    """
    noise = posterior_noise(keys, indices, mean_q.shape[1:])
    return mean_q[None] + jnp.exp(0.5 * log_var_q)[None] * noise, noise


def one_layer(encode: Encode, decode: Decode, *, path_only: bool = False) -> tuple[EncodeFeatures, Draw]:
    """Give a model of one diagonal Gaussian layer the two callables of a hierarchical one.

    Args:
        encode: the encoder.
        decode: the decoder.
        path_only: leave out the derivative of log q with respect to q's parameters at a fixed z, whose
            expectation is zero; the KL is then sampled, not in closed form ("sticking the landing").

    Returns:
        `encode` and `draw`, as `hierarchical_elbo` takes them.

    Source:
        Kingma and Welling 2014, section 2.4; Roeder, Wu and Duvenaud 2017, equation 8 (`path_only`).
    """

    def features(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return encode_checked(encode, params, images)

    def draw(params: Any, features: Any, keys: jax.Array, indices: jax.Array) -> Draws:
        mean_q, log_var_q = features
        z, noise = draw_latents(mean_q, log_var_q, keys, indices)
        if path_only:
            log_ratio = path_log_ratio(z, noise, log_var_q)
            kl = -log_ratio.reshape(*z.shape[:2], -1)
        else:
            log_ratio = standard_log_ratio(z, noise, log_var_q)
            kl = kl_standard_normal(Normal(mean_q, log_var_q)).reshape(1, mean_q.shape[0], -1)
        return Draws(_decode_samples(decode, params, z), sum_latents(log_ratio), kl)

    return features, draw


def standard_log_ratio(z: jax.Array, noise: jax.Array, log_var_q: jax.Array) -> jax.Array:
    """Compute `log p(z) - log q(z | x)` per latent, p the standard normal.

    Args:
        z: `[S, B, latent...]`.
        noise: what z was made of, same shape.
        log_var_q: `[B, latent...]`.

    Returns:
        Nats, the shape of `z`.
    """
    # (z - mean) / scale is the noise itself, and the normalising constants cancel.
    return 0.5 * (jnp.square(noise) + log_var_q[None] - jnp.square(z))


def path_log_ratio(z: jax.Array, noise: jax.Array, log_var_q: jax.Array) -> jax.Array:
    """Compute the same, q's parameters held fixed: the gradient is that of z alone.

    Args:
        z: `[S, B, latent...]`.
        noise: what z was made of, same shape.
        log_var_q: `[B, latent...]`.

    Returns:
        Nats, the shape of `z`.
    """
    value, slope = jax.lax.stop_gradient(
        # (z - mean) / variance from the noise, because the difference loses the digits of a small scale.
        (standard_log_ratio(z, noise, log_var_q), noise * jnp.exp(-0.5 * log_var_q)[None] - z)
    )
    return value + slope * (z - jax.lax.stop_gradient(z))


def draw_checked(draw: Draw, params: Any, features: Any, keys: jax.Array, indices: jax.Array) -> Draws:
    """Draw samples and check what comes back.

    Args:
        draw: the model's.
        params: its parameters.
        features: what `encode` returned.
        keys: random keys `[B]`, from `example_keys`.
        indices: `[S]` int32, the samples' numbers.

    Returns:
        The draws, log-ratio and KL float32.

    Raises:
        ValueError: if the log-ratio or the KL don't have the shapes of `Draws`.
    """
    draws = Draws(*draw(params, features, keys, indices))
    expected = (indices.shape[0], keys.shape[0])
    kl_fits = draws.kl.ndim == 3 and draws.kl.shape[:2] in (expected, (1, expected[1]))
    if draws.log_ratio.shape != expected or not kl_fits:
        raise ValueError(
            f"draw must return log_ratio [S, B] and kl [S, B, G] or [1, B, G] with S, B = {expected}, got "
            f"{draws.log_ratio.shape} and {draws.kl.shape}."
        )
    return Draws(draws.outputs, draws.log_ratio.astype(jnp.float32), draws.kl.astype(jnp.float32))


def sampled_nll(likelihood: Likelihood, outputs: Any, images: jax.Array, *, samples: int) -> jax.Array:
    """Measure the data under decoded samples.

    Args:
        likelihood: what the outputs mean.
        outputs: what the decoder gave for `S * B` latents, the sample the slower axis.
        images: `[B, ...]`.
        samples: S.

    Returns:
        `[S, B]` nats, `-log p(x | z)`.

    Raises:
        ValueError: if the likelihood doesn't give one value per example.
    """
    batch = images.shape[0]
    repeated = jnp.broadcast_to(images[None], (samples, *images.shape)).reshape(-1, *images.shape[1:])
    nll = likelihood.nll(outputs, repeated)
    if nll.shape != (samples * batch,):
        raise ValueError(
            f"likelihood.nll must give one value per example {(samples * batch,)}, got {nll.shape}."
        )
    return nll.reshape(samples, batch)


def decode_nll(
    decode: Decode, likelihood: Likelihood, params: Any, z: jax.Array, images: jax.Array
) -> jax.Array:
    """Decode samples of the latents and measure the data under each.

    Args:
        decode: the decoder.
        likelihood: what its outputs mean.
        params: its parameters.
        z: `[S, B, latent...]`.
        images: `[B, ...]`.

    Returns:
        `[S, B]` nats, `-log p(x | z)`.
    """
    return sampled_nll(likelihood, _decode_samples(decode, params, z), images, samples=z.shape[0])


def _decode_samples(decode: Decode, params: Any, z: jax.Array) -> Any:
    """Decode `[S, B, latent...]`."""
    # One large batch instead of vmap: a VAE's step on a CPU is 10-15% faster so.
    return decode(params, z.reshape(z.shape[0] * z.shape[1], *z.shape[2:]))


def sum_latents(terms: jax.Array) -> jax.Array:
    """Sum the terms of an example's latents.

    Args:
        terms: `[S, B, latent...]`.

    Returns:
        `[S, B]`.
    """
    return terms.sum(axis=tuple(range(2, terms.ndim)))
