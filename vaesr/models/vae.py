"""Variational autoencoders with one Gaussian latent layer: multi-layer perceptrons, a convolutional network
and the linear model whose maximum likelihood is known in closed form."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaesr.imaging import pixel_shuffle
from vaesr.layers import ACTIVATIONS, Activation, Precision, check_choices, conv2d
from vaesr.models.pixel_outputs import (
    PixelLikelihood,
    check_images,
    mean_of_outputs,
    output_channels,
    to_outputs,
)


class VAE(nn.Module):
    """An encoder q(z | x) and a decoder p(x | z), both diagonal.

    Attributes:
        architecture: "mlp", "conv" (stride-2 convolutions down, sub-pixel convolutions up) or "linear"
            (probabilistic PCA: linear maps, and a posterior variance that doesn't depend on x).
        latent: number of latent dimensions.
        hidden: widths of the encoder's layers, the decoder mirrors them: units for "mlp", channels per
            halving of the image for "conv", nothing for "linear".
        image_shape: (height, width, channels) of one image.
        likelihood: "bernoulli" (the decoder gives logits), "gaussian" (means, the scale is fixed in the
            objective), "gaussian_learned" (means and one learned log-scale), "discretised_logistic" or
            "discretised_gaussian" (a mean and a log-scale per pixel and channel), or "logistic_mixture"
            (PixelCNN++'s parameters).
        mixtures: components of "logistic_mixture".
        activation: "tanh", "relu", "silu" or "gelu".
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.
        dtype: the compute type. Parameters and outputs are float32.
    """

    architecture: Literal["mlp", "conv", "linear"] = "mlp"
    latent: int = 20
    hidden: tuple[int, ...] = (500,)
    image_shape: tuple[int, int, int] = (28, 28, 1)
    likelihood: PixelLikelihood = "bernoulli"
    activation: Activation = "tanh"
    precision: Precision = "default"
    mixtures: int = 10
    dtype: Any = jnp.float32

    def setup(self) -> None:
        _check_fields(self)
        precision = None if self.precision == "default" else self.precision
        common = {"dtype": self.dtype, "precision": precision}
        height, width, colours = self.image_shape
        channels = output_channels(self.likelihood, colours, mixtures=self.mixtures)
        if self.architecture == "conv":
            self.encoder: nn.Module = ConvEncoder(self.hidden, self.activation, **common)
            shape = (height, width, channels)
            self.decoder: nn.Module = ConvDecoder(self.hidden, shape, self.activation, **common)
        else:
            self.encoder = MLP(self.hidden, self.activation, **common)
            outputs = height * width * channels
            self.decoder = MLP(self.hidden[::-1], self.activation, outputs=outputs, **common)
        self.mean_q = nn.Dense(self.latent, **common)
        self.log_var_q: Any
        if self.architecture == "linear":
            self.log_var_q = self.param("log_var_q", nn.initializers.zeros, (self.latent,), jnp.float32)
        else:
            self.log_var_q = nn.Dense(self.latent, **common)
        if self.likelihood == "gaussian_learned":
            self.log_scale = self.param("log_scale", nn.initializers.zeros, (), jnp.float32)

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Give the parameters of q(z | x).

        Args:
            images: `[B, H, W, C]` in [0, 1] ("linear" takes any real numbers).

        Returns:
            `mean_q` and `log_var_q`, both `[B, latent]` float32.

        Raises:
            ValueError: if the images don't have the model's `image_shape`.
        """
        check_images(images, self.image_shape)
        features = self.encoder(images)
        mean_q = self.mean_q(features).astype(jnp.float32)
        if self.architecture == "linear":
            return mean_q, jnp.broadcast_to(self.log_var_q[None], mean_q.shape)
        return mean_q, self.log_var_q(features).astype(jnp.float32)

    def decode(self, z: jax.Array) -> Any:
        """Give the parameters of p(x | z).

        Args:
            z: `[B, latent]`.

        Returns:
            What the likelihood takes, float32: logits `[B, H, W, C]` for "bernoulli", means of that shape
            for "gaussian", `(means, log_scale)` with a scalar log-scale for "gaussian_learned" and one per
            mean for the discretised ones, parameters `[B, H, W, K]` for "logistic_mixture".

        Raises:
            ValueError: if `z` is not `[B, latent]`.
        """
        if z.ndim != 2 or z.shape[1] != self.latent:
            raise ValueError(f"z must be [B, {self.latent}], got {z.shape}.")
        pixels = self.decoder(z).reshape(z.shape[0], *self.image_shape[:2], -1)
        log_scale = self.log_scale if self.likelihood == "gaussian_learned" else None
        return to_outputs(self.likelihood, pixels, log_scale=log_scale)

    def mean_image(self, z: jax.Array) -> jax.Array:
        """Give the mean of p(x | z): what one shows as a sample or a reconstruction.

        Args:
            z: `[B, latent]`.

        Returns:
            `[B, H, W, C]` float32, in [0, 1] but for the two Gaussian densities, which are not clipped.
        """
        return mean_of_outputs(self.likelihood, self.decode(z), mixtures=self.mixtures)

    def reconstruct(self, images: jax.Array) -> jax.Array:
        """Encode images and decode the posterior's mean.

        Args:
            images: `[B, H, W, C]` in [0, 1].

        Returns:
            `[B, H, W, C]` float32, as `mean_image`.
        """
        return self.mean_image(self.encode(images)[0])

    def __call__(self, images: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        """Encode images and decode the posterior's mean; touches every parameter, so it serves `init`.

        Args:
            images: `[B, H, W, C]` in [0, 1].

        Returns:
            The decoder's outputs, `mean_q` and `log_var_q`.
        """
        mean_q, log_var_q = self.encode(images)
        return self.decode(mean_q), mean_q, log_var_q


class MLP(nn.Module):
    """Dense layers with an activation after each, and optionally a last one without.

    Attributes:
        widths: units of the layers with an activation; may be empty.
        activation: its name.
        outputs: units of the last layer, or None for no last layer.
        precision: matmul precision.
        dtype: compute type.
    """

    widths: tuple[int, ...]
    activation: str
    outputs: int | None = None
    precision: Any = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, ...]`, flattened per example, to `[B, units]`."""
        x = x.reshape(x.shape[0], -1)
        for width in self.widths:
            x = ACTIVATIONS[self.activation](nn.Dense(width, dtype=self.dtype, precision=self.precision)(x))
        if self.outputs is not None:
            x = nn.Dense(self.outputs, dtype=self.dtype, precision=self.precision)(x)
        return x


class ConvEncoder(nn.Module):
    """4x4 convolutions of stride 2, then flattened.

    Attributes:
        channels: channels after each halving.
        activation: its name.
        precision: convolution precision.
        dtype: compute type.
    """

    channels: tuple[int, ...]
    activation: str
    precision: Any = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Map images `[B, H, W, C]` in [0, 1] to features `[B, H/2^n · W/2^n · channels]`."""
        x = 2.0 * images - 1.0
        for width in self.channels:
            conv = nn.Conv(width, (4, 4), strides=(2, 2), dtype=self.dtype, precision=self.precision)
            x = ACTIVATIONS[self.activation](conv(x))
        return x.reshape(x.shape[0], -1)


class ConvDecoder(nn.Module):
    """A dense layer to the coarsest grid, then 3x3 sub-pixel convolutions that double it.

    Sub-pixel and not transposed convolutions: XLA's CPU back end takes 10 times as long for the gradient of
    the latter, and they leave checkerboards.

    Attributes:
        channels: the encoder's channels, finest grid first.
        image_shape: (height, width, channels) of the result; as many channels as the likelihood takes.
        activation: its name.
        precision: convolution precision.
        dtype: compute type.
    """

    channels: tuple[int, ...]
    image_shape: tuple[int, int, int]
    activation: str
    precision: Any = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Map latents `[B, latent]` to `[B, H, W, C]`."""
        act = ACTIVATIONS[self.activation]
        height, width, colours = self.image_shape
        factor = 2 ** len(self.channels)
        grid = (height // factor, width // factor, self.channels[-1])
        dense = nn.Dense(grid[0] * grid[1] * grid[2], dtype=self.dtype, precision=self.precision)
        x = act(dense(z)).reshape(z.shape[0], *grid)
        common = {"dtype": self.dtype, "precision": self.precision, "conv_general_dilated": _same_size_conv}
        for width_out in self.channels[-2::-1]:
            conv = nn.Conv(4 * width_out, (3, 3), **common)
            x = act(pixel_shuffle(conv(x), 2))
        last = nn.Conv(4 * colours, (3, 3), **common)
        return pixel_shuffle(last(x), 2)


def _same_size_conv(
    x: jax.Array, kernel: jax.Array, *_: Any, precision: str | None = None, **__: Any
) -> jax.Array:
    """What `nn.Conv` calls for a convolution of stride 1, in the fastest form for the backend."""
    return conv2d(x, kernel, precision=precision or "default")


def _check_fields(model: VAE) -> None:
    """Refuse hyper-parameters that don't make a model."""
    check_choices(model)
    if model.latent < 1 or any(width < 1 for width in model.hidden):
        raise ValueError(f"latent and hidden must be at least 1, got {model.latent} and {model.hidden}.")
    if len(model.image_shape) != 3 or any(size < 1 for size in model.image_shape):
        raise ValueError(f"image_shape must be (height, width, channels), got {model.image_shape}.")
    if model.architecture == "linear" and model.hidden:
        raise ValueError(f'a "linear" VAE has no hidden layers: hidden must be (), got {model.hidden}.')
    if model.architecture == "conv":
        factor = 2 ** len(model.hidden)
        if not model.hidden or model.image_shape[0] % factor or model.image_shape[1] % factor:
            raise ValueError(
                f"a convolutional VAE halves the image once per entry of hidden, {model.hidden}: height and "
                f"width must be divisible by {factor}, got {tuple(model.image_shape)}."
            )


_CONV_RGB: dict[str, Any] = {
    "latent": 128, "hidden": (64, 128, 256), "image_shape": (32, 32, 3), "activation": "silu",
}  # fmt: skip
PRESETS: dict[str, VAE] = {
    # Kingma and Welling 2014, section 5: 500 tanh units; 784-500-20-500-784. 815,824 parameters.
    "kingma_welling": VAE(latent=20, hidden=(500,), activation="tanh"),
    # The same net with ReLU, as in Flax's VAE example.
    "relu": VAE(latent=20, hidden=(500,), activation="relu"),
    # Burda et al. 2016, one stochastic layer: 784-200-200-50, tanh. 425,284 parameters.
    "iwae": VAE(latent=50, hidden=(200, 200), activation="tanh"),
    "conv": VAE("conv", latent=20, hidden=(32, 64), activation="silu"),
    "conv_rgb": VAE("conv", likelihood="gaussian_learned", **_CONV_RGB),
    # The same network with PixelCNN++'s likelihood: a bound in bits per dimension that compares.
    "conv_rgb_mixture": VAE("conv", likelihood="logistic_mixture", **_CONV_RGB),
    # Tipping and Bishop 1999: the linear VAE whose optimum is known in closed form.
    "linear": VAE("linear", latent=8, hidden=(), likelihood="gaussian_learned", precision="highest"),
}
