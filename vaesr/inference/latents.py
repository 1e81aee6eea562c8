"""What one does with a trained VAE: draw samples, encode images, decode codes."""

import jax
import jax.numpy as jnp
import numpy as np

from vaesr.distributions import example_keys, example_normal
from vaesr.inference.batches import encode_in_batches, in_batches
from vaesr.models import Autoencoder, LatentVariableModel, NoiseAutoencoder
from vaesr.runs.load import Run


def sample(
    run: Run, count: int, *, seed: int = 0, temperature: float = 1.0, batch_size: int = 256
) -> np.ndarray:
    """Draws codes from the prior and decodes their mean images.

    Args:
        run: of a model with `mean_image` and `latent`, such as `VAE`.
        count: how many, at least 1.
        seed: the k-th sample depends on the seed and k alone, not on `count` or `batch_size`.
        temperature: standard deviation of the codes, at least 0; 1 is the prior.
        batch_size: images decoded at once.

    Returns:
        `[count, H, W, C]` float32, clipped to [0, 1].

    Raises:
        ValueError: where the run's model is no VAE, or a knob is out of range.
    """
    _check_vae(run)
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not temperature >= 0:
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    keys = example_keys(jax.random.key(seed), jnp.arange(count))
    codes = np.asarray(temperature * example_normal(keys, (run.model.latent,)))
    return decode(run, codes, batch_size=batch_size)


def decode(run: Run, codes: np.ndarray | jax.Array, *, batch_size: int = 256) -> np.ndarray:
    """Gives the mean images of codes.

    Args:
        run: of a model with `mean_image`, such as `VAE`.
        codes: `[N, D]`.
        batch_size: codes decoded at once.

    Returns:
        `[N, H, W, C]` float32, clipped to [0, 1].

    Raises:
        ValueError: where the run's model is no VAE or the codes do not fit it.
    """
    _check_vae(run)
    codes = np.asarray(codes, np.float32)
    latent = run.model.latent
    if codes.ndim != 2 or codes.shape[1] != latent or not len(codes):
        raise ValueError(f"codes must be [N, {latent}] with N at least 1 for this model, got {codes.shape}")
    (images,) = in_batches(lambda z: (run.apply(z, method="mean_image"),), [codes], batch_size)
    return np.clip(images.astype(np.float32), 0.0, 1.0)


def encode(
    run: Run, images: np.ndarray | jax.Array, *, batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Gives the posterior q(z | x) of images.

    Args:
        run: of a model with `encode`, such as `VAE`.
        images: `[N, H, W, C]` of the model's shape; floats in [0, 1] or uint8 (a memory map is read batch by
            batch).
        batch_size: images encoded at once.

    Returns:
        `mean_q` and `log_var_q`, `[N, D]` float32 both.

    Raises:
        ValueError: where the run's model is no VAE, has several latent layers, or the images do not fit it.
    """
    _check_vae(run)
    if isinstance(run.model, LatentVariableModel):
        raise ValueError(
            f"{run.path} holds a VAE of several latent layers, whose codes are no single q(z | x)"
            + ("; encode_noise gives them" if isinstance(run.model, NoiseAutoencoder) else "")
        )
    mean_q, log_var_q = encode_in_batches(run, images, batch_size)
    return mean_q.astype(np.float32), log_var_q.astype(np.float32)


def encode_noise(run: Run, images: np.ndarray | jax.Array, *, batch_size: int = 64) -> np.ndarray:
    """Gives the noise from which `decode` makes the reconstructions of images.

    Args:
        run: of a model of several latent layers with `to_noise`, such as `NVAE`.
        images: `[N, H, W, C]` of the model's shape; floats in [0, 1] or uint8 (a memory map is read batch by
            batch).
        batch_size: images encoded at once.

    Returns:
        `[N, D]` float32: of each latent how many of its prior's standard deviations the posterior's mean is
        from the prior's mean.

    Raises:
        ValueError: where the run's model has no such noise or the images do not fit it.
    """
    if not isinstance(run.model, NoiseAutoencoder):
        raise ValueError(
            f"{run.path} holds the network {type(run.model).__name__}; this needs one that tells its noise"
        )
    (noise,) = encode_in_batches(run, images, batch_size, method="to_noise")
    return noise.astype(np.float32)


def _check_vae(run: Run) -> None:
    if not isinstance(run.model, Autoencoder):
        raise ValueError(f"{run.path} holds the network {type(run.model).__name__}; this needs a VAE")
