"""Variational autoencoders of dense nets with several stochastic layers."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaesr.distributions import Normal, kl_normal
from vaesr.distributions.keys import layer_normal
from vaesr.layers import Activation, Precision, check_choices
from vaesr.models.pixel_outputs import check_images, mean_of_outputs, to_outputs
from vaesr.models.vae import MLP


class HierarchicalVAE(nn.Module):
    """Latent layers z_1 (nearest to the data) to z_L, all diagonal Gaussians.

    The generative path is p(z_L) = N(0, I), p(z_l | z_{l+1}), p(x | z_1). "bottom_up" inference follows the
    data: q(z_1 | x), q(z_{l+1} | z_l). "top_down" inference follows the generative path and sees the data at
    every layer: q(z_L | x), q(z_l | z_{l+1}, x), each as a change to the prior's mean and log-variance.

    Attributes:
        latents: dimensions of z_1, ..., z_L.
        hidden: for every layer, the widths of the dense layers below it in inference (for the first between
            the data and z_1); the generative path mirrors them. Empty widths give linear maps.
        inference: "bottom_up" or "top_down".
        image_shape: (height, width, channels) of one image.
        likelihood: "bernoulli" (logits), "gaussian" (means) or "gaussian_learned" (means and one learned
            log-scale).
        activation: "tanh", "relu", "silu" or "gelu".
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.
        dtype: the compute type. Parameters and outputs are float32.
    """

    latents: tuple[int, ...] = (100, 50)
    hidden: tuple[tuple[int, ...], ...] = ((200, 200), (100, 100))
    inference: Literal["bottom_up", "top_down"] = "bottom_up"
    image_shape: tuple[int, int, int] = (28, 28, 1)
    likelihood: Literal["bernoulli", "gaussian", "gaussian_learned"] = "bernoulli"
    activation: Activation = "tanh"
    precision: Precision = "default"
    dtype: Any = jnp.float32

    @property
    def latent(self) -> int:
        """Dimensions of all latents together: the length of the noise that makes an image."""
        return sum(self.latents)

    def setup(self) -> None:
        _check_fields(self)
        common = {"dtype": self.dtype, "precision": None if self.precision == "default" else self.precision}
        layers = range(len(self.latents))
        self.up = [MLP(self.hidden[layer], self.activation, **common) for layer in layers]
        self.to_q = [Gaussian(self.latents[layer], **common) for layer in layers]
        # The net below z_{l+1} in the generative path mirrors the one above z_l in inference.
        self.down = [MLP(self.hidden[layer + 1][::-1], self.activation, **common) for layer in layers[:-1]]
        self.to_p = [Gaussian(self.latents[layer], **common) for layer in layers[:-1]]
        if self.inference == "top_down":
            self.to_q_down = [Gaussian(self.latents[layer], **common) for layer in layers[:-1]]
        pixels = self.image_shape[0] * self.image_shape[1] * self.image_shape[2]
        self.decoder = MLP(self.hidden[0][::-1], self.activation, outputs=pixels, **common)
        if self.likelihood == "gaussian_learned":
            self.log_scale = self.param("log_scale", nn.initializers.zeros, (), jnp.float32)

    def encode(self, images: jax.Array) -> tuple[Normal, ...]:
        """Compute what depends on the data alone.

        Args:
            images: `[B, H, W, C]` in [0, 1].

        Returns:
            "bottom_up": q(z_1 | x) alone. "top_down": for every layer what the data contribute to the mean
            and log-variance of q. Each `[B, latent_l]`, float32.

        Raises:
            ValueError: if the images don't have the model's `image_shape`.
        """
        check_images(images, self.image_shape)
        features = images
        if self.inference == "bottom_up":
            return (self.to_q[0](self.up[0](features)),)
        from_data = []
        for up, to_q in zip(self.up, self.to_q, strict=True):
            features = up(features)
            from_data.append(to_q(features))
        return tuple(from_data)

    def draw(
        self, from_data: tuple[Normal, ...], keys: jax.Array, indices: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Draw all latents from q and compare q with p.

        Args:
            from_data: what `encode` returned, for B examples.
            keys: random keys `[B]`, one per example.
            indices: `[S]` int32, the samples' numbers; layer l of sample s uses
                `fold_in(fold_in(keys[b], indices[s]), l)`.

        Returns:
            z_1 for `S * B` examples (the sample is the slower axis), what `decode` takes;
            `log p(z) - log q(z | x)` `[S, B]` in nats; and KL(q || p) per latent, `[S, B, latent]`, z_1
            first: in closed form given the layers drawn before, but for the lower layers of "bottom_up",
            which know only one draw of the layer above: `log q - log p` of the draw.
        """
        samples, batch = indices.shape[0], keys.shape[0]
        noise = [
            layer_normal(keys, indices, layer, (width,)).reshape(samples * batch, width)
            for layer, width in enumerate(self.latents)
        ]
        repeated = [
            jax.tree.map(lambda x: jnp.tile(x, (samples, 1)), from_x)  # sample after sample
            for from_x in from_data
        ]
        bottom_up = self.inference == "bottom_up"
        zs, qs, ps = (self._draw_bottom_up if bottom_up else self._draw_top_down)(repeated, noise)
        log_ratios = [_log_ratio(*layer) for layer in zip(zs, noise, qs, ps, strict=True)]
        kls = [kl_normal(q, p) for q, p in zip(qs, ps, strict=True)]
        if bottom_up:
            kls[:-1] = [-log_ratio for log_ratio in log_ratios[:-1]]
        log_ratio = jnp.concatenate(log_ratios, axis=1).sum(axis=1).reshape(samples, batch)
        kl = jnp.concatenate(kls, axis=1).reshape(samples, batch, self.latent)
        return zs[0], log_ratio, kl

    def _draw_bottom_up(
        self, from_data: list[Normal], noise: list[jax.Array]
    ) -> tuple[list[jax.Array], list[Normal], list[Normal]]:
        """z, q and p of every layer, z_1 first, for as many examples as the noise has."""
        qs, zs = [from_data[0]], [_reparameterise(from_data[0], noise[0])]
        for layer in range(1, len(self.latents)):
            qs.append(self.to_q[layer](self.up[layer](zs[-1])))
            zs.append(_reparameterise(qs[-1], noise[layer]))
        ps = [self.to_p[layer](self.down[layer](z)) for layer, z in enumerate(zs[1:])]
        return zs, qs, [*ps, _standard_normal(zs[-1])]

    def _draw_top_down(
        self, from_data: list[Normal], noise: list[jax.Array]
    ) -> tuple[list[jax.Array], list[Normal], list[Normal]]:
        """z, q and p of every layer, z_1 first, for as many examples as the noise has."""
        qs, ps = [from_data[-1]], [_standard_normal(noise[-1])]
        zs = [_reparameterise(qs[0], noise[-1])]
        for layer in range(len(self.latents) - 2, -1, -1):
            features = self.down[layer](zs[-1])
            p, from_above = self.to_p[layer](features), self.to_q_down[layer](features)
            # A change to the prior, so that layers without information cost nothing from the start.
            qs.append(jax.tree.map(lambda *terms: sum(terms), p, from_data[layer], from_above))
            ps.append(p)
            zs.append(_reparameterise(qs[-1], noise[layer]))
        return zs[::-1], qs[::-1], ps[::-1]

    def decode(self, z: jax.Array) -> Any:
        """Give the parameters of p(x | z_1).

        Args:
            z: z_1, `[B, latents[0]]`.

        Returns:
            What the likelihood takes, float32: logits or means `[B, H, W, C]`, or `(means, log_scale)`.

        Raises:
            ValueError: if `z` is not `[B, latents[0]]`.
        """
        if z.ndim != 2 or z.shape[1] != self.latents[0]:
            raise ValueError(f"z must be [B, {self.latents[0]}], got {z.shape}.")
        pixels = self.decoder(z).reshape(-1, *self.image_shape)
        log_scale = self.log_scale if self.likelihood == "gaussian_learned" else None
        return to_outputs(self.likelihood, pixels, log_scale=log_scale)

    def mean_image(self, noise: jax.Array) -> jax.Array:
        """Follow the generative path from standard normal noise to the mean of p(x | z_1).

        Args:
            noise: `[B, latent]` standard normal, the noise of z_1 first; `z_l = mean_l + scale_l * noise_l`.

        Returns:
            `[B, H, W, C]` float32, in [0, 1] for "bernoulli", not clipped otherwise.

        Raises:
            ValueError: if `noise` is not `[B, latent]`.
        """
        if noise.ndim != 2 or noise.shape[1] != self.latent:
            raise ValueError(f"noise must be [B, {self.latent}], got {noise.shape}.")
        ends = [sum(self.latents[: layer + 1]) for layer in range(len(self.latents))]
        parts = jnp.split(noise.astype(jnp.float32), ends[:-1], axis=1)
        z = parts[-1]
        for layer in range(len(self.latents) - 2, -1, -1):
            z = _reparameterise(self.to_p[layer](self.down[layer](z)), parts[layer])
        return self._mean(z)

    def reconstruct(self, images: jax.Array) -> jax.Array:
        """Encode images and decode the posterior's means, layer after layer.

        Args:
            images: `[B, H, W, C]` in [0, 1].

        Returns:
            `[B, H, W, C]` float32, as `mean_image`.
        """
        from_data = self.encode(images)
        silent = [jnp.zeros((images.shape[0], width), jnp.float32) for width in self.latents]
        if self.inference == "bottom_up":
            return self._mean(from_data[0].mean)
        return self._mean(self._draw_top_down(list(from_data), silent)[0][0])

    def __call__(self, images: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        """Encode images, draw once from a fixed key and decode; touches every parameter, so it serves `init`.

        Args:
            images: `[B, H, W, C]` in [0, 1].

        Returns:
            The decoder's outputs of one sample, with the rest of what `draw` returns.
        """
        keys = jax.random.split(jax.random.key(0), images.shape[0])
        z, log_ratio, kl = self.draw(self.encode(images), keys, jnp.arange(1))
        return self.decode(z), log_ratio, kl

    def _mean(self, z: jax.Array) -> jax.Array:
        return mean_of_outputs(self.likelihood, self.decode(z))


class Gaussian(nn.Module):
    """Two dense layers that give the mean and the log-variance of a diagonal Gaussian.

    Attributes:
        features: its dimensions.
        precision: matmul precision.
        dtype: compute type.
    """

    features: int
    precision: Any = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> Normal:
        """Map `[B, ...]`, flattened per example, to a `Normal` of `[B, features]`, float32."""
        x = x.reshape(x.shape[0], -1)
        mean = nn.Dense(self.features, dtype=self.dtype, precision=self.precision, name="mean")(x)
        log_var = nn.Dense(self.features, dtype=self.dtype, precision=self.precision, name="log_var")(x)
        return Normal(mean.astype(jnp.float32), log_var.astype(jnp.float32))


def _reparameterise(distribution: Normal, noise: jax.Array) -> jax.Array:
    return distribution.mean + jnp.exp(0.5 * distribution.log_var) * noise


def _standard_normal(like: jax.Array) -> Normal:
    return Normal(jnp.zeros(like.shape, jnp.float32), jnp.zeros(like.shape, jnp.float32))


def _log_ratio(z: jax.Array, noise: jax.Array, q: Normal, p: Normal) -> jax.Array:
    """`log p(z) - log q(z)` per latent; the noise is z standardised by q, and the constants cancel."""
    standardised = (z - p.mean) * jnp.exp(-0.5 * p.log_var)
    return 0.5 * (jnp.square(noise) + q.log_var - p.log_var - jnp.square(standardised))


def _check_fields(model: HierarchicalVAE) -> None:
    """Refuse hyper-parameters that don't make a model."""
    check_choices(model)
    if not model.latents or min(model.latents) < 1:
        raise ValueError(f"latents must hold at least one layer of at least 1, got {model.latents}.")
    if len(model.hidden) != len(model.latents):
        raise ValueError(
            f"hidden must hold the widths below each of the {len(model.latents)} stochastic layers, "
            f"got {model.hidden}."
        )
    if any(width < 1 for widths in model.hidden for width in widths):
        raise ValueError(f"the widths in hidden must be at least 1, got {model.hidden}.")
    if len(model.image_shape) != 3 or any(size < 1 for size in model.image_shape):
        raise ValueError(f"image_shape must be (height, width, channels), got {model.image_shape}.")


PRESETS: dict[str, HierarchicalVAE] = {
    # Burda et al. 2016, two stochastic layers: 784-200-200-100, 100-100-100-50, tanh. 521,084 parameters.
    "iwae_2layer": HierarchicalVAE(),
    # The same widths with top-down inference (Sonderby et al. 2016).
    "ladder_2layer": HierarchicalVAE(inference="top_down"),
}
