"""NVAE, the deep hierarchical VAE (Vahdat and Kautz 2020): figures 2 and 3 of the paper.

An encoder goes up from the image; after the cells of each group its features are tapped. A decoder comes down
from a learned constant, never from the image. Before each group's latents it asks what the prior says; in
inference the posterior is that plus what the tap, seen together with the decoder's features, adds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from vaesr.distributions import example_normal
from vaesr.imaging import upsample_nearest
from vaesr.layers import (
    BatchNormSwish,
    ConvForm,
    Precision,
    check_choices,
    conv2d,
    depthwise_conv2d,
    global_mean,
    strided_conv2d,
    torch_uniform,
)
from vaesr.models.pixel_outputs import PixelLikelihood, mean_of_outputs, output_channels, to_outputs

_RESIDUAL_SCALE = 0.1  # of every cell's branch
_LEAST_LENGTH = 1e-5  # of a kernel, in weight normalisation
_LEAST_SCALE = 0.01  # of a standard deviation
_CLAMP = 5.0
_OF_LEVELS = ("discretised_logistic", "discretised_gaussian", "logistic_mixture")


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
            return _recomputed(EncoderCell, self.remat)(features, down, **with_norm)

        def decoder_cell(features: int, expansion: int, *, up: bool = False) -> nn.Module:
            return _recomputed(DecoderCell, self.remat)(features, expansion, up, **with_norm)

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
        if images.ndim != 4 or images.shape[1:] != tuple(self.image_shape):
            raise ValueError(f"images must be [B, *{tuple(self.image_shape)}], got {images.shape}.")
        if self.bits < 8 and self.likelihood in _OF_LEVELS:
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
            _group_noise(keys, indices, group, shape).reshape(samples * batch, *shape)
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
    raw = raw.astype(jnp.promote_types(raw.dtype, jnp.float32))
    mean, log_scale = jnp.split(_CLAMP * jnp.tanh(raw / _CLAMP), 2, axis=-1)
    return _SoftNormal(mean, jnp.exp(log_scale) + _LEAST_SCALE)


def _kl(q: _SoftNormal, p: _SoftNormal) -> jax.Array:
    """KL(q || p), elementwise (equation 2 of the paper, before its simplification)."""
    ratio = q.scale / p.scale
    return 0.5 * (jnp.square((q.mean - p.mean) / p.scale) + jnp.square(ratio)) - 0.5 - jnp.log(ratio)


def _per_example(terms: jax.Array) -> jax.Array:
    return terms.reshape(terms.shape[0], -1).sum(axis=1)


def _group_noise(keys: jax.Array, indices: jax.Array, group: int, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise `[S, B, *shape]` of one group."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    return jax.vmap(lambda index: example_normal(fold(fold(keys, index), group), shape))(indices)


class FlowStep(nn.Module):
    """z - mu(z), where mu of a latent sees those before it alone: of the rows above, left of it, and channels
    before its own. The Jacobian is triangular with a diagonal of ones.

    Attributes:
        features: channels of z.
        mirrored: rows below and columns on the right take the place of those above and on the left.
        form: see `vaesr.layers.conv2d`.
        precision: see `vaesr.layers.conv2d`.
        dtype: compute type.
    """

    features: int
    mirrored: bool
    form: str = "auto"
    precision: str = "default"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Map `[N, h, w, features]` to the same shape and type."""
        common = {"form": self.form, "precision": self.precision, "dtype": self.dtype}
        mirrored = _MIRRORED if self.mirrored else _PLAIN
        wide = 6 * self.features
        h = WeightNormConv(wide, 3, mask=mirrored, use_bias=False, name="widen", **common)(z)
        h = nn.elu(h)
        h = WeightNormConv(wide, 5, mask=mirrored, depthwise=True, use_bias=False, name="spread", **common)(h)
        h = nn.elu(nn.elu(h))  # twice, as in the authors' code
        mu = WeightNormConv(self.features, 1, mask=mirrored, length=0.1, name="narrow", **common)(h)
        return z - mu.astype(z.dtype)


_PLAIN, _MIRRORED = "plain", "mirrored"


def _mask(name: str, shape: tuple[int, ...], mirrored: bool) -> np.ndarray:
    """What of the kernel of a `FlowStep`'s convolution there is: zeros and ones `[K, K, C, F]`."""
    side, _, inputs, outputs = shape
    mask = np.zeros(shape, np.float32)
    centre = side // 2
    mask[:centre] = mask[centre, :centre] = 1
    if name == "widen":  # outputs in blocks, one for each channel of z
        allowed = np.arange(inputs)[:, None] < np.arange(outputs)[None] // (outputs // inputs)
    elif name == "spread":
        allowed = np.ones((inputs, outputs), bool)
    else:
        allowed = np.arange(inputs)[:, None] // (inputs // outputs) <= np.arange(outputs)[None]
    mask[centre, centre] = allowed
    return mask[::-1, ::-1] if mirrored else mask


# --- cells and their convolutions --------------------------------------------------------------------------


def _recomputed(cell: Any, remat: str) -> Any:
    """The cell's class, of which the backward pass computes anew what `remat` says."""
    if remat == "none":
        return cell
    keep = jax.checkpoint_policies.save_only_these_names("convolution", "statistics")
    return nn.remat(cell, static_argnums=(2,), policy=keep if remat == "norm" else None)


class _Cell(nn.Module):
    """What cells have in common."""

    def _conv(self, features: int, side: int, **more: Any) -> Callable[[jax.Array], jax.Array]:
        kind = {"form": self.form, "precision": self.precision, "dtype": self.dtype}
        conv = WeightNormConv(features, side, **kind, **more)
        return lambda x: checkpoint_name(conv(x), "convolution")

    def _norm(self, name: str, *, swish: bool = True) -> BatchNormSwish:
        axis_name, dtype = self.axis_name, self.dtype
        return BatchNormSwish(swish, axis_name=axis_name, dtype=dtype, name=name)


class EncoderCell(_Cell):
    """BN, Swish and a 3x3 convolution, twice, then squeeze-and-excitation (figure 3b).

    Attributes:
        features: output channels.
        down: halve the size.
        form: see `vaesr.layers.conv2d`.
        precision: see `vaesr.layers.conv2d`.
        axis_name: see `vaesr.layers.BatchNormSwish`.
        dtype: compute type.
    """

    features: int
    down: bool = False
    form: str = "auto"
    precision: str = "default"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H, W, features]`, or to half of the size."""
        y = self._norm("norm_0")(x, train)
        y = self._conv(self.features, 3, stride=2 if self.down else 1, name="conv_0")(y)
        y = self._conv(self.features, 3, name="conv_1")(self._norm("norm_1")(y, train))
        y = SqueezeExcite(self.dtype, name="se")(y)
        if self.down:
            # Swish, then one pixel of every four to a quarter of the channels each.
            x = nn.swish(x)
            part = self.features // 4
            sizes = (part, part, part, self.features - 3 * part)
            corners = ((0, 0), (1, 1), (0, 1), (1, 0))
            x = jnp.concatenate(
                [
                    self._conv(size, 1, name=f"skip_{i}")(x[:, row::2, column::2])
                    for i, (size, (row, column)) in enumerate(zip(sizes, corners, strict=True))
                ],
                axis=-1,
            )
        return x + _RESIDUAL_SCALE * y


class DecoderCell(_Cell):
    """Widened, convolved channel by channel and narrowed, then squeeze-and-excitation (figure 3a).

    Attributes:
        features: output channels.
        expansion: how much wider it is inside than its input.
        up: double the size.
        form: see `vaesr.layers.conv2d`.
        precision: see `vaesr.layers.conv2d`.
        axis_name: see `vaesr.layers.BatchNormSwish`.
        dtype: compute type.
    """

    features: int
    expansion: int
    up: bool = False
    form: str = "auto"
    precision: str = "default"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H, W, features]`, or to double the size."""
        wide = self.expansion * x.shape[-1]
        y = self._norm("norm_0", swish=False)(upsample_nearest(x, 2) if self.up else x, train)
        y = self._conv(wide, 1, weight_norm=False, use_bias=False, name="expand")(y)
        y = self._norm("norm_1")(y, train)
        y = self._conv(wide, 5, depthwise=True, weight_norm=False, use_bias=False, name="spread")(y)
        y = self._norm("norm_2")(y, train)
        y = self._conv(self.features, 1, weight_norm=False, use_bias=False, name="project")(y)
        y = self._norm("norm_3", swish=False)(y, train)
        y = SqueezeExcite(self.dtype, name="se")(y)
        if self.up:
            x = self._conv(self.features, 1, use_bias=False, name="skip")(_upsample_bilinear(x))
        return x + _RESIDUAL_SCALE * y


class SqueezeExcite(nn.Module):
    """Each channel times a number that all channels' means decide (Hu et al. 2018).

    Attributes:
        dtype: compute type.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to the same shape."""
        channels = x.shape[-1]
        hidden = max(channels // 16, 4)
        squeezed = global_mean(x)
        for features, activation in ((hidden, nn.relu), (channels, nn.sigmoid)):
            init = torch_uniform(squeezed.shape[-1])
            dense = nn.Dense(features, dtype=self.dtype, kernel_init=init, bias_init=init)
            squeezed = activation(dense(squeezed))
        return x * squeezed


class WeightNormConv(nn.Module):
    """A convolution that keeps the size, its kernel's direction and length learned apart, output by output.

    exp(g) w / (|w| + 1e-5), where g is the parameter "log_length".

    Attributes:
        features: output channels.
        kernel_size: odd side of the kernel.
        stride: distance of the positions that are computed.
        use_bias: add a bias to each output channel.
        weight_norm: whether there is a length; without, the kernel is what it is.
        depthwise: each channel has a kernel of its own.
        mask: "plain" or "mirrored", in a `FlowStep`; it is applied before the length is taken.
        length: factor on the length that the first kernel has by itself.
        form: see `vaesr.layers.conv2d`.
        precision: see `vaesr.layers.conv2d`.
        dtype: compute type.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = True
    weight_norm: bool = True
    depthwise: bool = False
    mask: str | None = None
    length: float = 1.0
    form: str = "auto"
    precision: str = "default"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H', W', features]` in `dtype`."""
        side, inputs = self.kernel_size, 1 if self.depthwise else x.shape[-1]
        init = torch_uniform(side**2 * inputs)
        own = {"kernel": self.param("kernel", init, (side, side, inputs, self.features))}
        if self.mask is not None:
            own["kernel"] = own["kernel"] * _mask(str(self.name), own["kernel"].shape, self.mask == _MIRRORED)
        if self.weight_norm:
            own["log_length"] = self.param(
                "log_length", lambda _: jnp.log(self.length * (_lengths(own["kernel"]) + 0.01))
            )
        x, kernel = x.astype(self.dtype), _normalised(own).astype(self.dtype)
        fields = {"form": self.form, "precision": self.precision}
        if self.depthwise:
            y = depthwise_conv2d(x, kernel, precision=self.precision)
        elif side == 1:
            precision = None if self.precision == "default" else self.precision
            flat = jnp.dot(x.reshape(-1, inputs), kernel.reshape(inputs, self.features), precision=precision)
            y = flat.reshape(*x.shape[:-1], self.features)
        elif self.stride > 1:
            y = strided_conv2d(x, kernel, stride=self.stride, padding=side // 2, **fields)
        else:
            y = conv2d(x, kernel, **({**fields, "form": "direct"} if self.is_initializing() else fields))
        if not self.use_bias:
            return y
        bias = self.param("bias", init, (self.features,))
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)


def _lengths(kernel: jax.Array) -> jax.Array:
    """Of each output's kernel `[F]`; where all of it is zero its derivative is, too."""
    return jnp.sqrt(jnp.maximum(jnp.square(kernel).sum(axis=(0, 1, 2)), 1e-30))


def _normalised(own: Mapping[str, jax.Array]) -> jax.Array:
    """The kernel that a convolution multiplies with, of its parameters; masked already."""
    kernel = own["kernel"]
    if "log_length" not in own:
        return kernel
    factor = jnp.exp(own["log_length"]) / (_lengths(kernel) + _LEAST_LENGTH)
    return kernel * factor.reshape(1, 1, 1, -1)


def _upsample_bilinear(x: jax.Array) -> jax.Array:
    """Double the size between the corners' centres (PyTorch's `align_corners`)."""
    for axis in (1, 2):
        side = x.shape[axis]
        at = np.arange(2 * side) * ((side - 1) / max(2 * side - 1, 1))
        weights = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(side)[None]))
        taps = jnp.asarray(weights, x.dtype)
        x = jnp.moveaxis(jnp.tensordot(taps, x, ((1,), (axis,))), 0, axis)
    return x


# --- what regularisation asks for --------------------------------------------------------------------------


def _modules(params: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every module with parameters of its own, by its path."""
    if any(not isinstance(value, Mapping) for value in params.values()):
        yield path, params
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _modules(value, (*path, name))


def kernels(params: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Give the kernels that the convolutions multiply with.

    Args:
        params: a network's parameters.

    Returns:
        `[K, K, C, F]` each (C is 1 where every channel has its own), masked and normalised, by the path with
        slashes between.
    """
    found = {}
    for path, own in _modules(params):
        if "kernel" not in own or jnp.ndim(own["kernel"]) != 4:  # of dense layers in squeeze-and-excitation
            continue
        step = path[-2] if len(path) > 1 else ""
        if step.startswith("transforms_"):
            mirrored = bool(int(step.rpartition("_")[2]) % 2)
            own = {**own, "kernel": own["kernel"] * _mask(path[-1], own["kernel"].shape, mirrored)}
        found["/".join(path)] = _normalised(own)
    return found


def norm_scales(params: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Give the scales of the batch normalisations.

    Args:
        params: a network's parameters.

    Returns:
        `[C]` each, by the path with slashes between.
    """
    return {"/".join(path): own["scale"] for path, own in _modules(params) if "scale" in own}


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
