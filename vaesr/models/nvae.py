"""NVAE, the deep hierarchical VAE (Vahdat and Kautz 2020): figure 2 of the paper.

An encoder goes up from the image; after the cells of each group its features are tapped. A decoder comes down
from a learned constant, never from the image. Before each group's latents it asks what the prior says; in
inference the posterior is that plus what the tap, seen together with the decoder's features, adds. Cells,
convolutions and flow steps are in `nvae_cells`.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaesr.distributions.casting import at_least_float32
from vaesr.distributions.keys import layer_normal
from vaesr.layers import ConvForm, Precision, check_choices
from vaesr.models.nvae_cells import DecoderCell, EncoderCell, FlowStep, WeightNormConv, recomputed
from vaesr.models.pixel_outputs import (
    OF_LEVELS,
    PixelLikelihood,
    check_images,
    mean_of_outputs,
    output_channels,
    to_outputs,
)

_LEAST_SCALE = 0.01  # of a standard deviation
_CLAMP = 5.0


class NVAE(nn.Module):
    """Groups of latent maps z_1 (the finest, nearest to the data) to z_L (the coarsest), each given the next.

    Attributes:
        image_shape: (height, width, channels) of one image.
        channels: of the stem; they double with every halving of the size.
        groups: of latents at each scale, the finest scale first; sizes halve from one to the next.
        latent_channels: of the latent maps of one group.
        pre_blocks: halvings between the image and the finest latents.
        pre_cells: cells of each of these, and of each doubling after the latents.
        encoder_cells: cells of a group in the encoder.
        decoder_cells: cells of a group in the decoder; the first group has none.
        flows: pairs of volume-preserving autoregressive steps that each posterior's draw goes through.
        padding: black pixels around the image, which the network sees and no one else.
        likelihood: of pixels, see `vaesr.models.vae.VAE`.
        mixtures: components of "logistic_mixture".
        bits: bits per channel of the images that it is trained on, where the likelihood is of levels; of
            images it sees no more.
        remat: what is computed anew in the backward pass: "none"; "norm", all of a cell but its
            convolutions, which is half of the memory; "cell", all of it.
        axis_name: of the devices under `pmap`, for batch statistics over all of them.
        conv_form: how the platform computes 3x3 convolutions, see `vaesr.layers.conv2d`.
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.
        dtype: the compute type. Parameters, statistics, latents and outputs are float32.
    """

    image_shape: tuple[int, int, int] = (28, 28, 1)
    channels: int = 32
    groups: tuple[int, ...] = (10, 5)
    latent_channels: int = 20
    pre_blocks: int = 2
    pre_cells: int = 3
    encoder_cells: int = 2
    decoder_cells: int = 2
    flows: int = 0
    padding: int = 2
    likelihood: PixelLikelihood = "bernoulli"
    mixtures: int = 10
    bits: int = 8
    remat: Literal["none", "norm", "cell"] = "norm"
    axis_name: str | None = None
    conv_form: ConvForm = "auto"
    precision: Precision = "default"
    dtype: Any = jnp.float32

    @property
    def latent_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(height, width, channels) of the latents of each group, nearest to the data first."""
        height, width, _ = self.image_shape
        shapes = []
        for scale, count in enumerate(self.groups):
            factor = 2 ** (self.pre_blocks + scale)
            sides = [(side + 2 * self.padding) // factor for side in (height, width)]
            shapes += [(sides[0], sides[1], self.latent_channels)] * count
        return tuple(shapes)

    @property
    def latents(self) -> tuple[int, ...]:
        """Dimensions of each group's latents, nearest to the data first."""
        return tuple(height * width * channels for height, width, channels in self.latent_shapes)

    @property
    def latent(self) -> int:
        """Dimensions of all latents together: the length of the noise that makes an image."""
        return sum(self.latents)

    @property
    def balance(self) -> tuple[float, ...]:
        """What a group's KL is to be in proportion to while it is warmed up, nearest to the data first.

        4^s over the groups of its scale, s = 0 the coarsest; the least is 1 (the paper's alpha).
        """
        scales = len(self.groups)
        each = [4.0 ** (scales - 1 - i) / count for i, count in enumerate(self.groups)]
        return tuple(value / min(each) for value, n in zip(each, self.groups, strict=True) for _ in range(n))

    def setup(self) -> None:
        _check_fields(self)
        common = {"form": self.conv_form, "precision": self.precision, "dtype": self.dtype}
        with_norm = {**common, "axis_name": self.axis_name}

        def conv(features: int, side: int, **more: Any) -> nn.Module:
            return WeightNormConv(features, side, **common, **more)

        def encoder_cell(features: int, *, down: bool = False) -> nn.Module:
            return recomputed(EncoderCell, self.remat)(features, down, **with_norm)

        def decoder_cell(features: int, expansion: int, *, up: bool = False) -> nn.Module:
            return recomputed(DecoderCell, self.remat)(features, expansion, up, **with_norm)

        height, width, colours = self.image_shape
        widths = [self.channels * 2 ** (self.pre_blocks + i) for i in range(len(self.groups))]
        coarse = widths[::-1]  # of the decoder's scales, in its order
        of_group = [w for w, count in zip(widths, self.groups, strict=True) for _ in range(count)]
        from_top = of_group[::-1]

        # Up from the image (figure 2a, left).
        self.stem = conv(self.channels, 3)
        self.pre_process = [
            encoder_cell(self.channels * 2 ** (i + (j == self.pre_cells - 1)), down=j == self.pre_cells - 1)
            for i in range(self.pre_blocks)
            for j in range(self.pre_cells)
        ]
        self.encoder = [encoder_cell(w) for w in of_group for _ in range(self.encoder_cells)]
        self.downs = [encoder_cell(w, down=True) for w in widths[1:]]
        self.top = conv(widths[-1], 1)

        # Down from a constant (figure 2a, right); lists of groups are in the decoder's order.
        factor = 2 ** (self.pre_blocks + len(self.groups) - 1)
        sides = [(side + 2 * self.padding) // factor for side in (height, width)]
        self.start = self.param(
            "start", nn.initializers.uniform(1.0), (sides[0], sides[1], widths[-1]), jnp.float32
        )
        self.priors = [conv(2 * self.latent_channels, 1) for _ in from_top[1:]]
        self.taps = [conv(w, 1) for w in from_top[1:]]
        self.posteriors = [conv(2 * self.latent_channels, 3) for _ in from_top]
        self.transforms = [
            FlowStep(self.latent_channels, bool(k % 2), **common)
            for _ in from_top
            for k in range(2 * self.flows)
        ]
        self.decoder = [decoder_cell(w, 6) for w in from_top[1:] for _ in range(self.decoder_cells)]
        self.combiners = [conv(w, 1) for w in from_top]
        self.ups = [decoder_cell(w, 6, up=True) for w in coarse[1:]]
        self.post_process = [
            decoder_cell(self.channels * 2 ** (self.pre_blocks - 1 - i), 3, up=j == 0)
            for i in range(self.pre_blocks)
            for j in range(self.pre_cells)
        ]
        self.to_image = conv(output_channels(self.likelihood, colours, mixtures=self.mixtures), 3)

    def encode(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Compute what depends on the data alone.

        Args:
            images: `[B, H, W, C]` in [0, 1].
            train: take the batch's own statistics.

        Returns:
            For every group, nearest to the data first, the features `[B, h, w, F]` that its posterior sees.

        Raises:
            ValueError: if the images don't have the model's `image_shape`.
        """
        check_images(images, self.image_shape)
        if self.bits < 8 and self.likelihood in OF_LEVELS:
            # The highest bits, as the authors take them; what has no more stays what it is.
            levels = jnp.floor(jnp.round(255.0 * images) / 2 ** (8 - self.bits))
            images = levels / (2**self.bits - 1)
        edge = (self.padding, self.padding)
        x = self.stem(2.0 * jnp.pad(images, ((0, 0), edge, edge, (0, 0))) - 1.0)
        for cell in self.pre_process:
            x = cell(x, train)
        features = []
        cells = iter(self.encoder)
        for scale, count in enumerate(self.groups):
            for _ in range(count):
                for _ in range(self.encoder_cells):
                    x = next(cells)(x, train)
                features.append(x)
            if scale < len(self.downs):
                x = self.downs[scale](x, train)
        features[-1] = nn.elu(self.top(nn.elu(features[-1])))
        return tuple(features)

    def draw(
        self, from_data: tuple[jax.Array, ...], keys: jax.Array, indices: jax.Array, train: bool = False
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Draw all latents from q and compare q with p.

        Args:
            from_data: what `encode` returned, for B examples.
            keys: random keys `[B]`, one per example.
            indices: `[S]` int32, the samples' numbers; group l of sample s uses
                `fold_in(fold_in(keys[b], indices[s]), l)`.
            train: take the batch's own statistics.

        Returns:
            Features for `S * B` examples (the sample is the slower axis), what `decode` takes;
            `log p(z) - log q(z | x)` `[S, B]` in nats; and KL(q || p) of each group `[S, B, L]`, nearest to
            the data first: given the groups drawn before in closed form, or with flows
            `log q - log p` of the draw.
        """
        samples, batch = indices.shape[0], keys.shape[0]
        noise = [
            layer_normal(keys, indices, group, shape).reshape(samples * batch, *shape)
            for group, shape in enumerate(self.latent_shapes)
        ]
        if samples > 1:
            from_data = tuple(jnp.tile(x, (samples, 1, 1, 1)) for x in from_data)
        features, log_ratio, kl = self.descend(noise, from_data, train)
        return features, log_ratio.sum(axis=1).reshape(samples, batch), kl.reshape(samples, batch, -1)

    def descend(
        self,
        noise: Sequence[jax.Array],
        from_data: tuple[jax.Array, ...] | None = None,
        train: bool = False,
        seen: list[jax.Array] | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Go down through all groups, with latents from q, or without data from p.

        Args:
            noise: standard normal noise `[N, h, w, latent_channels]` of each group, nearest to the data
                first.
            from_data: what `encode` returned, for N examples; None draws from the prior.
            train: take the batch's own statistics.
            seen: a list that gets, coarsest group first, the noise from which the prior would have made z.

        Returns:
            The features that `decode` takes, and of each group, nearest to the data first, `[N, L]` nats:
            `log p(z) - log q(z | x)` and the KL as in `draw`; zeros where there are no data.
        """
        count = noise[0].shape[0]
        x = jnp.broadcast_to(self.start.astype(self.dtype)[None], (count, *self.start.shape))
        cells, group, log_ratios, kls = iter(self.decoder), 0, [], []
        for scale, groups in enumerate(self.groups[::-1]):
            if scale:
                x = self.ups[scale - 1](x, train)
            for _ in range(groups):
                # The first group's prior has raw parameters of zero: a standard deviation of 1.01.
                raw_p = jnp.zeros((count, *self.latent_shapes[-1][:2], 2 * self.latent_channels), x.dtype)
                if group:
                    for _ in range(self.decoder_cells):
                        x = next(cells)(x, train)
                    raw_p = self.priors[group - 1](nn.elu(x))
                own, p = noise[-1 - group], _soft_normal(raw_p)
                if from_data is None:
                    z = p.mean + p.scale * own
                else:
                    tapped = from_data[-1 - group]
                    if group:
                        tapped = tapped + self.taps[group - 1](x)
                    # The posterior is a change to the prior (section 3.2).
                    q = _soft_normal(raw_p + self.posteriors[group](tapped))
                    z, log_ratio, kl = self._draw_group(group, q, p, own)
                    log_ratios.append(log_ratio)
                    kls.append(kl)
                if seen is not None:
                    seen.append((z - p.mean) / p.scale)
                x = self.combiners[group](jnp.concatenate([x, z.astype(x.dtype)], axis=-1))
                group += 1
        nothing = [jnp.zeros(count, jnp.float32)] * len(self.latents)
        of_groups = [jnp.stack((found or nothing)[::-1], axis=1) for found in (log_ratios, kls)]
        return x, of_groups[0], of_groups[1]

    def _draw_group(
        self, group: int, q: "_SoftNormal", p: "_SoftNormal", noise: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """z, `log p(z) - log q(z | x)` `[N]` and the KL `[N]` of a group."""
        z = q.mean + q.scale * noise
        log_q = q.log_prob(z)
        steps = 2 * self.flows
        for step in self.transforms[group * steps : (group + 1) * steps]:
            z = step(z)  # of volume 1, so that log q stays what it is
        log_ratio = _per_example(p.log_prob(z) - log_q)
        return z, log_ratio, -log_ratio if self.flows else _per_example(_kl(q, p))

    def decode(self, features: jax.Array, train: bool = False) -> Any:
        """Give the parameters of p(x | z).

        Args:
            features: what `draw` or `descend` made of all latents, `[N, h, w, F]`.
            train: take the batch's own statistics.

        Returns:
            What the likelihood takes, float32: logits or means `[N, H, W, C]`, parameters `[N, H, W, K]`, or
            `(means, log_scales)`.

        Raises:
            ValueError: if the features are not those of the finest scale.
        """
        shape = (*self.latent_shapes[0][:2], self.channels * 2**self.pre_blocks)
        if features.shape[1:] != shape:
            raise ValueError(f"features must be [N, {', '.join(map(str, shape))}], got {features.shape}.")
        for cell in self.post_process:
            features = cell(features, train)
        pixels, edge = self.to_image(nn.elu(features)), self.padding
        pixels = pixels[:, edge : pixels.shape[1] - edge, edge : pixels.shape[2] - edge]
        return to_outputs(self.likelihood, pixels)

    def forward(
        self, images: jax.Array, keys: jax.Array, indices: jax.Array, train: bool = False
    ) -> tuple[Any, jax.Array, jax.Array]:
        """Encode, draw and decode in one pass, as training does.

        Args:
            images: `[B, H, W, C]` in [0, 1].
            keys: random keys `[B]`, one per example.
            indices: `[S]` int32, the samples' numbers.
            train: take the batch's own statistics.

        Returns:
            The decoder's outputs for `S * B` examples, with the rest of what `draw` returns.
        """
        features, log_ratio, kl = self.draw(self.encode(images, train), keys, indices, train)
        return self.decode(features, train), log_ratio, kl

    def mean_image(self, noise: jax.Array, train: bool = False) -> jax.Array:
        """Follow the generative path from standard normal noise to the mean of p(x | z).

        Args:
            noise: `[B, latent]` standard normal, that of the group nearest to the data first. Times a
                temperature it is noise of narrower priors; where it is zero, latents are their prior's mean.
            train: take the batch's own statistics.

        Returns:
            `[B, H, W, C]` float32, in [0, 1] but for the two Gaussian densities, which are not clipped.

        Raises:
            ValueError: if `noise` is not `[B, latent]`.
        """
        if noise.ndim != 2 or noise.shape[1] != self.latent:
            raise ValueError(f"noise must be [B, {self.latent}], got {noise.shape}.")
        parts = jnp.split(noise, np.cumsum(self.latents)[:-1].tolist(), axis=1)
        shaped = [part.reshape(-1, *shape) for part, shape in zip(parts, self.latent_shapes, strict=True)]
        return self._mean(self.descend(shaped, None, train)[0], train)

    def to_noise(self, images: jax.Array) -> jax.Array:
        """Give the noise that `mean_image` makes the reconstructions of images from.

        Args:
            images: `[B, H, W, C]` in [0, 1].

        Returns:
            `[B, latent]` float32, as `mean_image` takes it: how many of the prior's standard deviations each
            posterior's mean is from the prior's.
        """
        silent = [jnp.zeros((images.shape[0], *shape), jnp.float32) for shape in self.latent_shapes]
        found: list[jax.Array] = []
        self.descend(silent, self.encode(images), seen=found)
        return jnp.concatenate([noise.reshape(noise.shape[0], -1) for noise in found[::-1]], axis=1)

    def reconstruct(self, images: jax.Array) -> jax.Array:
        """Encode images, take every posterior's mean and decode.

        Args:
            images: `[B, H, W, C]` in [0, 1].

        Returns:
            `[B, H, W, C]` float32, as `mean_image`.
        """
        silent = [jnp.zeros((images.shape[0], *shape), jnp.float32) for shape in self.latent_shapes]
        return self._mean(self.descend(silent, self.encode(images))[0])

    def __call__(self, images: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        """Encode images, draw once from a fixed key and decode; touches every parameter, so it serves `init`.

        Args:
            images: `[B, H, W, C]` in [0, 1].

        Returns:
            The decoder's outputs of one sample, with the rest of what `draw` returns.
        """
        return self.forward(images, jax.random.split(jax.random.key(0), images.shape[0]), jnp.arange(1))

    def _mean(self, features: jax.Array, train: bool = False) -> jax.Array:
        return mean_of_outputs(self.likelihood, self.decode(features, train), mixtures=self.mixtures)


# --- latents -----------------------------------------------------------------------------------------------


class _SoftNormal(NamedTuple):
    """A normal whose parameters are held within bounds softly."""

    mean: jax.Array
    scale: jax.Array

    def log_prob(self, value: jax.Array) -> jax.Array:
        unit = (value - self.mean) / self.scale
        return -0.5 * jnp.square(unit) - 0.5 * np.log(2 * np.pi).item() - jnp.log(self.scale)


def _soft_normal(raw: jax.Array) -> _SoftNormal:
    """Of raw means and log-scales `[..., 2F]`; at least float32."""
    mean, log_scale = jnp.split(_CLAMP * jnp.tanh(at_least_float32(raw) / _CLAMP), 2, axis=-1)
    return _SoftNormal(mean, jnp.exp(log_scale) + _LEAST_SCALE)


def _kl(q: _SoftNormal, p: _SoftNormal) -> jax.Array:
    """KL(q || p), elementwise (equation 2 of the paper, before its simplification)."""
    ratio = q.scale / p.scale
    return 0.5 * (jnp.square((q.mean - p.mean) / p.scale) + jnp.square(ratio)) - 0.5 - jnp.log(ratio)


def _per_example(terms: jax.Array) -> jax.Array:
    return terms.reshape(terms.shape[0], -1).sum(axis=1)


def _check_fields(model: NVAE) -> None:
    """Refuse hyper-parameters that don't make a model."""
    check_choices(model)
    least = {
        "channels": 1, "latent_channels": 1, "pre_blocks": 1, "pre_cells": 1, "encoder_cells": 1,
        "decoder_cells": 1, "flows": 0, "padding": 0, "bits": 1,
    }  # fmt: skip
    for field, value in least.items():
        if getattr(model, field) < value:
            raise ValueError(f"{field} must be at least {value}, got {getattr(model, field)}.")
    if not model.groups or min(model.groups) < 1:
        raise ValueError(f"groups must hold at least one scale of at least 1, got {model.groups}.")
    if len(model.image_shape) != 3 or min(model.image_shape) < 1:
        raise ValueError(f"image_shape must be (height, width, channels), got {model.image_shape}.")
    if model.likelihood == "gaussian_learned":
        raise ValueError('likelihood must be one with outputs for every pixel, got "gaussian_learned".')
    factor = 2 ** (model.pre_blocks + len(model.groups) - 1)
    if any((side + 2 * model.padding) % factor for side in model.image_shape[:2]):
        raise ValueError(
            f"image_shape {tuple(model.image_shape)} with padding {model.padding} must be divisible by "
            f"{factor}: pre_blocks and groups halve it so often."
        )


_RGB: dict[str, Any] = {"padding": 0, "likelihood": "logistic_mixture", "pre_blocks": 1, "pre_cells": 2}
_AT_256: dict[str, Any] = {
    **_RGB, "image_shape": (256, 256, 3), "channels": 30, "groups": (16, 8, 4, 4, 4), "flows": 2, "bits": 5,
}  # fmt: skip
# The paper's table 6, as the authors' README has them.
PRESETS: dict[str, NVAE] = {
    "mnist": NVAE(),  # 33,363,134 parameters
    "cifar10": NVAE((32, 32, 3), 128, (30,), flows=1, **_RGB),  # 130,852,480
    "celeba64": NVAE((64, 64, 3), 64, (20, 10, 5), flows=1, **_RGB),  # 153,281,364
    "imagenet32": NVAE((32, 32, 3), 192, (28,), flows=1, **_RGB),  # 268,509,444
    "celebahq256": NVAE(**_AT_256),  # 330,798,664
    "ffhq256": NVAE(**_AT_256),  # the same network
}
