"""Pictures of what the latents of a VAE hold."""

import pathlib
from collections.abc import Callable

import jax
import numpy as np

from vaesr import reports


def save_latent_figures(
    directory: pathlib.Path,
    render: Callable[[np.ndarray], jax.Array],
    mean_q: np.ndarray,
    log_var_q: np.ndarray,
    labels: np.ndarray | None,
    *,
    of_images: str,
) -> None:
    """Draws traversals, the plane of the latents that carry most information, and what every latent carries.

    Writes `3_traversals.png`, `4_latents.png`, `5_manifold.png` (of two latents) and `6_activity.png`.
    `render` maps codes `[B, latent]` to images `[B, H, W, C]` in [0, 1]; means and log-variances of q(z | x)
    are `[N, latent]`, the labels `[N]`. `of_images` says what the images are, for the captions.
    """
    kl = 0.5 * (np.square(mean_q) + np.exp(log_var_q) - 1.0 - log_var_q).mean(axis=0)
    order = np.argsort(-kl)
    traversal = reports.latent_traversal(render, mean_q[0], dimensions=[int(i) for i in order[:8]])
    caption = (
        "One image's code, one latent at a time moved through the prior; most informative latents first."
    )
    reports.save_image(directory / "3_traversals.png", traversal, caption=caption)
    if mean_q.shape[1] >= 2:
        plane = reports.latent_scatter(mean_q[:, np.sort(order[:2])], labels)
        caption = f"Posterior means of {of_images} in the two most informative latents, by label."
        reports.save_image(directory / "4_latents.png", plane, caption=caption)
    if mean_q.shape[1] == 2:
        caption = "The plane of the two latents at the prior's quantiles: the mean of p(x | z)."
        reports.save_image(directory / "5_manifold.png", reports.latent_manifold(render), caption=caption)
    bars = reports.latent_activity(mean_q.var(axis=0), kl)
    caption = f"Use of each latent over {len(mean_q)} {of_images}; active means a variance above 0.01."
    reports.save_image(directory / "6_activity.png", bars, caption=caption)
