"""RCAN (Zhang et al. 2018): very deep residual super-resolution with channel attention, trained with L1.

    python -m experiments.rcan                                   # x2, embedded photos, 2 CPU cores
    python -m experiments.rcan --data folder:PHOTOS              # your own photos
    python -m experiments.rcan paper --data folder:DIV2K         # the paper's 200 blocks, 15.4 M parameters
    python -m experiments.rcan --model.scale 4 --init-from runs/rcan/default --workdir runs/rcan/x4

Low-resolution images are made on the fly by MATLAB's bicubic and rounded to 8 bits. PSNR and SSIM are those
of the benchmarks: luma, border of `scale` pixels left out, result rounded to 8 bits; on photos that no
training step ever saw. The attention sees whole images, so they are not cut into tiles.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from experiments import base, sr
from vaesr import training
from vaesr.models.rcan import RCAN


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    # Upscaling factor: 2, 3, 4 or 8.
    scale: int = 2
    # Width of the trunk.
    channels: int = 64
    # Residual groups.
    groups: int = 10
    # Attention blocks of a group.
    blocks: int = 20
    # Channels for one hidden channel of the attention.
    reduction: int = 16
    # Recompute each group in the backward pass: less memory, a third more work.
    remat: bool = False
    # How GPUs and TPUs multiply float32: by default in TF32 or bfloat16, highest in full.
    precision: Literal["default", "high", "highest"] = "default"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(sr.Config):
    """RCAN on photographs."""

    # Network.
    model: ModelConfig = ModelConfig()


PRESETS = {
    "smoke": Config(
        data="embedded:photos", steps=4, batch_size=2, patch=12, eval_every=4, checkpoint_every=4,
        log_every=2, eval_crop=48, test_crop=96,
        model=ModelConfig(channels=8, groups=1, blocks=1, reduction=4),
    ),
    "default": Config(
        data="embedded:photos", steps=4000, batch_size=8, patch=32, eval_every=1000, checkpoint_every=1000,
        model=ModelConfig(channels=32, groups=2, blocks=3, reduction=8), ema_decay=0.999,
        optim=training.OptimConfig(lr=1e-3, schedule="cosine", warmup=100),
    ),
    # Zhang et al. 2018, section 4.1: as EDSR's.
    "paper": Config(
        data="folder:DIV2K_train_HR", steps=1_000_000, batch_size=16, eval_every=1000, checkpoint_every=1000,
        optim=training.OptimConfig(lr=1e-4, schedule="step", step_every=200_000, step_factor=0.5),
    ),
}  # fmt: skip


def build(config: Config) -> base.Experiment:
    """Wire data, network, objective and evaluation.

    Args:
        config: see `Config`.

    Returns:
        The experiment.
    """
    model = RCAN(dtype=jnp.dtype(config.compute_dtype), **dataclasses.asdict(config.model))
    return sr.build(config, model, label="RCAN", player="rcan")


if __name__ == "__main__":
    base.main("experiments.rcan", PRESETS, build)
