"""What decrappify and DeOldify share: the settings and networks of a U-Net and its critic."""

import dataclasses
import pathlib
from typing import Literal

import jax.numpy as jnp

from experiments import gan
from vaesr import inference, training
from vaesr.data.degraded import Degradation
from vaesr.models.critic import Critic
from vaesr.models.unet import UNet

GENERATOR, CRITIC = "generator", "critic"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The U-Net."""

    # Enlarge the input so many times.
    scale: int = 1
    # Residual blocks of each of the encoder's stages.
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    # Blocks of 1x1, 3x3, 1x1 convolutions.
    bottleneck: bool = False
    # Channels of the encoder's stem.
    channels: int = 64
    # fastai's decoder, or DeOldify's deep (Artistic) and wide (Stable) ones.
    style: Literal["plain", "deep", "wide"] = "plain"
    # Width of the deep and wide decoders.
    factor: float = 1.0
    # Norm of the decoder's convolutions.
    norm: Literal["weight", "spectral", "batch"] = "weight"
    # Attend over all pixels at an eighth of the size.
    self_attention: bool = True
    # Range of the sigmoid at the end, in ImageNet's units.
    output_range: tuple[float, float] | None = (-3.0, 3.0)
    # Add what the network makes to the enlarged input.
    residual: bool = False


@dataclasses.dataclass(frozen=True)
class CriticConfig:
    """The critic's training alone."""

    # Training steps.
    steps: int
    # Optimizer.
    optim: training.OptimConfig
    # Steps between evaluations and checkpoints.
    eval_every: int = 500
    # Channels of the first convolution.
    channels: int = 256
    # Halvings after it.
    blocks: int = 3
    # Share of channels dropped in training.
    dropout: float = 0.15
    # A dense block after the first convolution.
    dense: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "eval_every", "channels", "blocks"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--critic.{flag} must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--critic.dropout must lie in [0, 1), got {self.dropout}.")


@dataclasses.dataclass(frozen=True)
class JointConfig:
    """The joint phase: short, in turns."""

    # Steps, the critic's and the generator's together.
    steps: int
    # Generator's optimizer.
    optim: training.OptimConfig
    # Critic's learning rate by the generator's.
    critic_rate: float = 5.0
    # Steps between evaluations, pictures and checkpoints.
    eval_every: int = 100
    # The critic's loss below which the generator moves, once.
    threshold: float = 0.65
    # Weight of the generator's adversarial loss.
    adversarial_weight: float = 1.0
    # Weight of the loss of the first stage, or of the squared error.
    restoration_weight: float = 1.5
    # What holds the generator: the first stage's loss, or the squared error.
    restoration: Literal["features", "mse"] = "features"

    def __post_init__(self) -> None:
        for name in ("steps", "eval_every", "critic_rate", "threshold"):
            if not getattr(self, name) > 0:
                flag = name.replace("_", "-")
                raise ValueError(f"--joint.{flag} must be above 0, got {getattr(self, name)}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(gan.Config):
    """A U-Net that restores photographs; the shared flags are the first stage's."""

    # U-Net.
    model: ModelConfig = ModelConfig()
    # Second stage: the critic alone.
    critic: CriticConfig
    # Third stage: both.
    joint: JointConfig
    # Make photos so many times smaller first: patches then show more of them.
    shrink: int = 1
    # torchvision's file of the encoder's weights, such as resnet34-b627a593.pth; none starts from scratch.
    encoder: pathlib.Path | None = None
    # Weights of the features before VGG's third, fourth and fifth pooling. fastai's 5, 15, 2 are for VGG16
    # with batch norm; these give plain VGG16's larger features about the same share of the loss.
    feature_weights: tuple[float, float, float] = (0.15, 0.37, 0.5)
    # Weights of their Gram matrices; none leaves them out. fastai's are 5000 times the squared weights above.
    style_weights: tuple[float, float, float] | None = (66.0, 620.0, 2670.0)
    # Stop after the first stage; --resume --no-only-generator goes on.
    only_generator: bool = False

    @property
    def side(self) -> int:
        """Pixels a side of what the networks see in training."""
        return self.patch * self.scale

    def allowed_scales(self) -> tuple[int, ...]:
        """The scales that the network takes."""
        return (1, 2, 3, 4, 8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shrink < 1:
            raise ValueError(f"--shrink must be at least 1, got {self.shrink}.")
        least = 4 * 2 ** (self.critic.blocks + 1)
        if self.side < least:
            raise ValueError(
                f"--patch {self.patch} makes images of {self.side} pixels; the critic takes {least} and more."
            )


@dataclasses.dataclass(frozen=True)
class Task:
    """What the stages have in common.

    Attributes:
        degradation: what is to be undone.
        keep_luma: the network adds chroma alone.
        opinions: metrics beside PSNR and SSIM.
        root: the first stage's run folder.
    """

    degradation: Degradation
    keep_luma: bool
    opinions: dict[str, inference.Score]
    root: pathlib.Path


def make_generator(task: Task, config: Config) -> UNet:
    """The U-Net of a configuration.

    Args:
        task: see `Task`.
        config: see `Config`.

    Returns:
        The module.
    """
    # "loop": on CPUs, convolution gradients inside the `lax.cond` of a turn are as slow as inside loops.
    return UNet(
        dtype=jnp.dtype(config.compute_dtype), keep_luma=task.keep_luma, form="loop",
        axis_name="data" if config.parallel == "pmap" else None, **dataclasses.asdict(config.model),
    )  # fmt: skip


def make_critic(config: Config) -> Critic:
    """The critic of a configuration.

    Args:
        config: see `Config`.

    Returns:
        The module.
    """
    critic = config.critic
    return Critic(
        channels=critic.channels, blocks=critic.blocks, dropout=critic.dropout, dense=critic.dense,
        dtype=jnp.dtype(config.compute_dtype), form="loop",
    )  # fmt: skip
