"""Whole networks, one file per system, with named presets that match the papers.

Nothing is imported eagerly: write `from vaesr.models.vae import VAE, PRESETS`. Here stands what the other
rooms may ask of a network, as protocols; `isinstance` tells whether one answers. Sizes: B examples, an image
of H x W pixels and C channels, D latent dimensions, L code maps of h x w codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import jax


@runtime_checkable
class Typed(Protocol):
    """A network that computes in a type of one's choice.

    Attributes:
        dtype: compute type; parameters and outputs are float32.
    """

    dtype: Any


@runtime_checkable
class Precise(Protocol):
    """A network that multiplies as exactly as one chooses.

    Attributes:
        precision: of float32 multiplications on accelerators: "default", "high" or "highest".
    """

    precision: str


@runtime_checkable
class Convolutional(Protocol):
    """A network whose convolutions have several forms, of which the platform's fastest is chosen.

    Attributes:
        conv_form: see `vaesr.layers.conv2d`.
    """

    conv_form: str


@runtime_checkable
class Looped(Protocol):
    """A network of many blocks alike, which may be one loop in place of so much program.

    Attributes:
        loop: whether they are.
    """

    loop: bool


@runtime_checkable
class Synchronised(Protocol):
    """A network with batch statistics, which are those of all devices.

    Attributes:
        axis_name: of the devices under `pmap`; None outside of it.
    """

    axis_name: str | None


@runtime_checkable
class ScaledResiduals(Protocol):
    """A network whose parameters don't tell the factor on its residual branches, so that one has to know it.

    Attributes:
        residual_scale: the factor.
    """

    residual_scale: float


class _Restorer(Protocol):
    """What can be asked of every network that maps photos to photos.

    Attributes:
        channels: of the widest maps: they say how much memory a pixel takes.
        wide_at_output: whether there are maps of that width at the size of the output too.
        receptive_radius: how many input pixels around one can change what it becomes; None where all can, so
            that an image can't be cut into tiles.
        input_multiple: tiles begin at multiples of so many input pixels.
    """

    @property
    def channels(self) -> int: ...

    @property
    def wide_at_output(self) -> bool: ...

    @property
    def receptive_radius(self) -> int | None: ...

    @property
    def input_multiple(self) -> int: ...


class PlainRestorer:
    """The answers of most of them: tiles may begin at any pixel, and the widest maps are the output's too."""

    wide_at_output: ClassVar[bool] = True

    @property
    def input_multiple(self) -> int:
        """1: tiles begin at any pixel."""
        return 1


@runtime_checkable
class Upscaler(_Restorer, Protocol):
    """A network that maps photos to larger ones, or to better ones of the same size.

    Attributes:
        scale: its factor, at least 1.
    """

    @property
    def scale(self) -> int: ...

    def __call__(self, x_lr: jax.Array) -> jax.Array:
        """RGB `[B, H, W, 3]` in [0, 1] to float32 `[B, H * scale, W * scale, 3]`, not clipped."""
        ...


@runtime_checkable
class MultiScaleUpscaler(_Restorer, Protocol):
    """One network for several factors.

    Attributes:
        scales: its factors.
    """

    @property
    def scales(self) -> tuple[int, ...]: ...

    def __call__(self, x_lr: jax.Array, scale: int) -> jax.Array:
        """RGB `[B, H, W, 3]` in [0, 1] to float32 `[B, H * scale, W * scale, 3]`, not clipped."""
        ...


@runtime_checkable
class Autoencoder(Protocol):
    """A model p(x | z) of small images with an encoder: the VAEs.

    Attributes:
        latent: D, dimensions of all latents together.
        image_shape: (H, W, C).
    """

    image_shape: tuple[int, int, int]

    @property
    def latent(self) -> int: ...

    def encode(self, images: jax.Array) -> tuple[Any, ...]:
        """Images `[B, H, W, C]` in [0, 1] to what q(z | x) depends on them by, float32.

        Of one latent layer that is `mean_q` and `log_var_q`, `[B, D]` both.
        """
        ...

    def decode(self, z: jax.Array) -> Any:
        """The latents nearest to the data, `[B, D]` of a single layer, to what the likelihood takes."""
        ...

    def mean_image(self, noise: jax.Array, /) -> jax.Array:
        """Standard normal noise `[B, D]`, which is z where there is one layer, to images `[B, H, W, C]`."""
        ...

    def reconstruct(self, images: jax.Array) -> jax.Array:
        """Images `[B, H, W, C]` to the same shape by the posterior's means."""
        ...


@runtime_checkable
class LatentVariableModel(Autoencoder, Protocol):
    """An `Autoencoder` of several latent layers, drawn one given the other.

    Attributes:
        latents: dimensions of each layer, the one nearest to the data first; D is their sum.
    """

    latents: tuple[int, ...]

    def draw(
        self, from_data: Any, keys: jax.Array, indices: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What `encode` gave, keys `[B]` and numbers of samples `[S]` to draws of all layers.

        The latents nearest to the data for `S * B` examples, `log p(z) - log q(z | x)` `[S, B]` and the KL
        `[S, B, D]`, in nats.
        """
        ...


@runtime_checkable
class NoiseAutoencoder(Autoencoder, Protocol):
    """An `Autoencoder` that tells of images the noise that its generative path would make them from."""

    def to_noise(self, images: jax.Array) -> jax.Array:
        """Images `[B, H, W, C]` to `[B, D]`, from which `mean_image` makes their reconstructions."""
        ...


@runtime_checkable
class CodeAutoencoder(Protocol):
    """An autoencoder whose codes are integers: the vector-quantised ones.

    Attributes:
        image_shape: (H, W, C).
        code_shapes: (h, w) of each of the L maps, the coarsest first.
        code_count: how many codes a map chooses from.
    """

    image_shape: tuple[int, int, int]

    @property
    def code_shapes(self) -> tuple[tuple[int, int], ...]: ...

    @property
    def code_count(self) -> int: ...

    def encode(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """Images `[B, H, W, C]` in [0, 1] to L maps, int32 `[B, h, w]`."""
        ...

    def decode(self, codes: tuple[jax.Array, ...], *, keep: int | None = None) -> jax.Array:
        """L maps, or zeros in place of all but the `keep` coarsest, to images `[B, H, W, C]`."""
        ...


@runtime_checkable
class CodePrior(Protocol):
    """The distribution of a map of codes, one after the other, given coarser maps and a class.

    Attributes:
        shape: (h, w) of the map.
        codes: K, the number of codes.
        classes: number of classes, or None where it knows none.
        condition: (h, w, K) of each coarser map that is given.
    """

    shape: tuple[int, int]
    codes: int
    classes: int | None
    condition: tuple[tuple[int, int, int], ...]

    def __call__(
        self,
        codes: jax.Array,
        *,
        label: jax.Array | None = None,
        condition: tuple[jax.Array, ...] = (),
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Codes int32 `[B, h, w]` to logits `[B, h, w, K]` of each given those before it."""
        ...

    def conditioning(
        self, label: jax.Array | None = None, condition: tuple[jax.Array, ...] = ()
    ) -> jax.Array | None:
        """Classes `[B]` and coarser maps to the features `[B, h, w, F]` that sampling is given."""
        ...

    def begin_row(self, above: jax.Array, given: jax.Array | None, site: Any) -> None:
        """In sampling: take up the row of codes `[B, w]` above the one that begins."""
        ...

    def next_pixel(self, before: jax.Array, given: jax.Array | None, site: Any) -> jax.Array:
        """In sampling: logits `[B, K]` of a code, given the one `[B]` before it."""
        ...
