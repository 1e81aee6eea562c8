"""Latent-variable models as objectives and evaluation take them: encode, draw the latents, decode, weigh.

Three callables make a model of one stochastic layer or many: `encode` computes once what depends on the data,
`draw` samples all latents from q(z | x) and compares q with p, `decode` gives the outputs that a `Likelihood`
understands. Without a `draw` the model has one layer, a diagonal Gaussian q under a standard normal prior.

The first argument of all three is the player's tree in `params`; of a network with variables of its own
(batch statistics) it is `{"params": tree, **variables[player]}`, as `Module.apply` takes it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaesr.distributions import Normal, example_keys, example_normal, kl_standard_normal
from vaesr.objectives.binarisation import binarise_batch
from vaesr.objectives.likelihoods import Likelihood
from vaesr.objectives.objective import Batch

Encode = Callable[[Any, jax.Array], Any]
"""`encode(params, x [B, ...]) -> features`, any tree: all that `draw` needs to know of the data.

Of a model of one Gaussian layer the features are `(mean_q, log_var_q)`, each `[B, latent...]`.
"""

Decode = Callable[[Any, Any], Any]
"""`decode(params, z) -> outputs` that the likelihood understands, z `[B, latent...]` or what `draw` gives."""


class Draws(NamedTuple):
    """Samples of all latents of a model, and what they cost; S samples for each of B examples.

    Attributes:
        z: what `decode` takes, for `S * B` examples, the sample the slower axis: the lowest latents, or the
            features that a top-down network has made of all of them.
        log_ratio: `[S, B]` nats, `log p(z) - log q(z | x)` summed over all latents.
        kl: `[S, B, G]` nats, one term per latent (or group of latents), whose sum has the mean
            KL(q || p): in closed form given the layers drawn before where there is one, otherwise
            `log q - log p` of the draw. `[1, B, G]` where it doesn't depend on the draw.
        variables: the new value of `variables[player]`, from a network in training that has such; None
            leaves them as they are.
    """

    z: Any
    log_ratio: jax.Array
    kl: jax.Array
    variables: Any = None


Draw = Callable[[Any, Any, jax.Array, jax.Array], tuple[Any, ...]]
"""`draw(params, features, keys [B], indices [S]) -> Draws`, or a plain tuple of its first three entries.

Sample s of example b uses `fold_in(keys[b], indices[s])` and nothing else, so that neither the rest of the
batch nor the number of samples changes it.
"""


def read_batch(batch: Batch, key: jax.Array, *, binarisation: str) -> tuple[jax.Array, jax.Array]:
    """Take the images `[B, ...]`, float32, and one key per example for the latents out of a batch.

    It holds float `image` `[B, ...]`, `position` `[B]` (`arange(B)` if absent), and for fixed bits `index`
    `[B]`; `key` is the step's, `binarisation` as for `binarise_batch`. A ValueError if there are no images,
    they are not float `[B, ...]`, or there is no `index` though the binarisation needs one.
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


def draw_and_decode(
    draw: Draw,
    decode: Decode,
    likelihood: Likelihood,
    params: Any,
    features: Any,
    images: jax.Array,
    keys: jax.Array,
    indices: jax.Array,
) -> tuple[Draws, jax.Array]:
    """Draw samples, measure the data `[B, ...]` under each, and check what comes back.

    `params` is the first argument of the model's `draw` and `decode`, `features` what `encode` returned,
    `keys` `[B]` are from `example_keys`, `indices` `[S]` int32 the samples' numbers. Gives the draws,
    log-ratio and KL float32, and `-log p(x | z)`, `[S, B]` nats. A ValueError if the log-ratio, the KL or the
    log-likelihood don't have the shapes they should.
    """
    draws = Draws(*draw(params, features, keys, indices))
    expected = (indices.shape[0], keys.shape[0])
    kl_fits = draws.kl.ndim == 3 and draws.kl.shape[:2] in (expected, (1, expected[1]))
    if draws.log_ratio.shape != expected or not kl_fits:
        raise ValueError(
            f"draw must return log_ratio [S, B] and kl [S, B, G] or [1, B, G] with S, B = {expected}, got "
            f"{draws.log_ratio.shape} and {draws.kl.shape}."
        )
    draws = draws._replace(log_ratio=draws.log_ratio.astype(jnp.float32), kl=draws.kl.astype(jnp.float32))
    return draws, sampled_nll(likelihood, decode(params, draws.z), images, samples=expected[0])


def sampled_nll(likelihood: Likelihood, outputs: Any, images: jax.Array, *, samples: int) -> jax.Array:
    """Measure the data `[B, ...]` under decoded samples: `-log p(x | z)`, `[S, B]` nats.

    `outputs` are the decoder's for `S * B` latents, the sample the slower axis. A ValueError if the
    likelihood doesn't give one value per example.
    """
    batch = images.shape[0]
    repeated = jnp.broadcast_to(images[None], (samples, *images.shape)).reshape(-1, *images.shape[1:])
    nll = likelihood.nll(outputs, repeated)
    if nll.shape != (samples * batch,):
        raise ValueError(
            f"likelihood.nll must give one value per example {(samples * batch,)}, got {nll.shape}."
        )
    return nll.reshape(samples, batch)


# --- one diagonal Gaussian layer under a standard normal prior ---------------------------------------------


def gaussian_layer(encode: Encode, *, path_only: bool = False) -> tuple[Encode, Draw]:
    """Give `encode` of a model of one Gaussian layer with its outputs checked, and such a model's `draw`.

    `encode(params, x)` gives `(mean_q, log_var_q)`. `path_only` leaves out the derivative of log q with
    respect to q's parameters at a fixed z, whose expectation is zero; the KL is then sampled, not in closed
    form ("sticking the landing").

    Source: Kingma and Welling 2014, section 2.4; Roeder, Wu and Duvenaud 2017, equation 8 (`path_only`).
    """

    def draw(params: Any, features: Any, keys: jax.Array, indices: jax.Array) -> Draws:
        mean_q, log_var_q = features
        z, noise = draw_gaussian(mean_q, log_var_q, keys, indices)
        if path_only:
            log_ratio = path_log_ratio(z, noise, log_var_q)
            kl = -log_ratio.reshape(*z.shape[:2], -1)
        else:
            log_ratio = standard_log_ratio(z, noise, log_var_q)
            kl = kl_standard_normal(Normal(mean_q, log_var_q)).reshape(1, mean_q.shape[0], -1)
        return Draws(merge_samples(z), sum_latents(log_ratio), kl)

    return functools.partial(encode_gaussian, encode), draw


def encode_gaussian(encode: Encode, params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Encode images `[B, ...]` to `mean_q` and `log_var_q`, both `[B, latent...]`, float32.

    A ValueError if they don't fit together or don't have the batch axis of the images.
    """
    mean_q, log_var_q = encode(params, images)
    if mean_q.shape != log_var_q.shape or mean_q.ndim < 2 or mean_q.shape[0] != images.shape[0]:
        raise ValueError(
            f"encode must return mean_q and log_var_q of one shape [B, latent] for images {images.shape}, "
            f"got {mean_q.shape} and {log_var_q.shape}."
        )
    return mean_q.astype(jnp.float32), log_var_q.astype(jnp.float32)


def posterior_noise(keys: jax.Array, indices: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw standard normal noise `[S, B, *shape]` for keys `[B]` and samples `[S]`.

    Sample s of an example is always the same draw, so that chunks don't change it.
    """
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    return jax.vmap(lambda index: example_normal(fold(keys, index), shape))(indices)


def draw_gaussian(
    mean_q: jax.Array, log_var_q: jax.Array, keys: jax.Array, indices: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draw reparameterised samples of q(z | x), and the noise they are made of, `[S, B, latent...]` both."""
    noise = posterior_noise(keys, indices, mean_q.shape[1:])
    return mean_q[None] + jnp.exp(0.5 * log_var_q)[None] * noise, noise


def standard_log_ratio(z: jax.Array, noise: jax.Array, log_var_q: jax.Array) -> jax.Array:
    """Compute `log p(z) - log q(z | x)` per latent, `[S, B, latent...]`, of what `draw_gaussian` gave."""
    # (z - mean) / scale is the noise itself, and the normalising constants cancel.
    return 0.5 * (jnp.square(noise) + log_var_q[None] - jnp.square(z))


def path_log_ratio(z: jax.Array, noise: jax.Array, log_var_q: jax.Array) -> jax.Array:
    """Compute `standard_log_ratio` with q's parameters held fixed: the gradient is that of z alone."""
    value, slope = jax.lax.stop_gradient(
        # (z - mean) / variance from the noise, because the difference loses the digits of a small scale.
        (standard_log_ratio(z, noise, log_var_q), noise * jnp.exp(-0.5 * log_var_q)[None] - z)
    )
    return value + slope * (z - jax.lax.stop_gradient(z))


def merge_samples(z: jax.Array) -> jax.Array:
    """Make one batch `[S * B, latent...]` of samples `[S, B, latent...]`."""
    # One large batch instead of vmap over samples: a VAE's step on a CPU is 10-15% faster so.
    return z.reshape(z.shape[0] * z.shape[1], *z.shape[2:])


def sum_latents(terms: jax.Array) -> jax.Array:
    """Sum `[S, B, latent...]` over an example's latents."""
    return terms.sum(axis=tuple(range(2, terms.ndim)))
