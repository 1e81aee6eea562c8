"""EDSR (Lim et al. 2017): residual super-resolution of photographs, trained with L1.

    python -m experiments.edsr                                   # x2, embedded photos, 2 CPU cores
    python -m experiments.edsr --data folder:PHOTOS              # your own photos
    python -m experiments.edsr baseline --data folder:DIV2K      # the paper's 1.4 M parameter network
    python -m experiments.edsr paper --data folder:DIV2K         # the paper's 43 M parameter network
    python -m experiments.edsr --model.scale 4 --init-from runs/edsr/default --workdir runs/edsr/x4

Low-resolution images are made on the fly by MATLAB's bicubic and rounded to 8 bits. PSNR and SSIM are those
of the benchmarks: luma, border of `scale` pixels left out, result rounded to 8 bits; on photos that no
training step ever saw. The report shows HR, bicubic and ours side by side.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from experiments import base, sr
from vaesr import training
from vaesr.models.edsr import EDSR


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    # Upscaling factor: 2, 3, 4 or 8.
    scale: int = 2
    # Width of the residual blocks.
    channels: int = 64
    # Residual blocks.
    blocks: int = 16
    # Factor on each residual branch; 0.1 steadies the wide network.
    residual_scale: float = 1.0
    # Recompute each block in the backward pass: less memory, a third more work.
    remat: bool = False
    # Loop over the blocks instead of unrolling them: smaller program.
    scan: bool = False
    # How GPUs and TPUs multiply float32: by default in TF32 or bfloat16, highest in full.
    precision: Literal["default", "high", "highest"] = "default"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(sr.Config):
    """EDSR on photographs."""

    # Network.
    model: ModelConfig = ModelConfig()


_PAPER = Config(
    data="folder:DIV2K_train_HR",
    steps=300_000,
    batch_size=16,
    eval_every=1000,
    checkpoint_every=1000,
    optim=training.OptimConfig(lr=1e-4, schedule="step", step_every=200_000, step_factor=0.5),
)
PRESETS = {
    "smoke": Config(
        data="embedded:photos", steps=4, batch_size=2, patch=12, eval_every=4, checkpoint_every=4,
        log_every=2, eval_crop=48, test_crop=96, model=ModelConfig(channels=8, blocks=1),
    ),
    # A network of 1/20 of the baseline's work, so that minutes on 2 CPU cores show what training brings.
    "default": Config(
        data="embedded:photos", steps=6000, batch_size=8, patch=32, eval_every=1000, checkpoint_every=1000,
        model=ModelConfig(channels=32, blocks=4), ema_decay=0.999,
        optim=training.OptimConfig(lr=1e-3, schedule="cosine", warmup=100),
    ),
    # Lim et al. 2017, sections 4.2 and 4.3: the 16 x 64 and the 32 x 256 network.
    "baseline": _PAPER,
    "paper": dataclasses.replace(
        _PAPER, model=ModelConfig(channels=256, blocks=32, residual_scale=0.1)
    ),
}  # fmt: skip


def build(config: Config) -> base.Experiment:
    """Wire data, network, objective and evaluation.

    Args:
        config: see `Config`.

    Returns:
        The experiment.
    """
    model = EDSR(dtype=jnp.dtype(config.compute_dtype), **dataclasses.asdict(config.model))
    return sr.build(config, model, label="EDSR", player="edsr")


if __name__ == "__main__":
    base.main("experiments.edsr", PRESETS, build)
