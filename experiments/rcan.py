"""RCAN (Zhang et al. 2018): very deep residual super-resolution with channel attention, trained with L1.

    python -m experiments.rcan                                   # x2, embedded photos
    python -m experiments.rcan --data folder:PHOTOS              # your own photos
    python -m experiments.rcan paper --data folder:DIV2K         # the paper's 200 blocks, 15.4 M parameters
    python -m experiments.rcan --model.scale 4 --init-from runs/rcan/default --workdir runs/rcan/x4

Low-resolution images are made on the fly by MATLAB's bicubic and rounded to 8 bits. PSNR and SSIM are those
of the benchmarks: luma, border of `scale` pixels left out, result rounded to 8 bits; on photos that no
training step ever saw. The attention sees whole images, so they are not cut into tiles.

Expected: better than bicubic. Measured: +1.80 ± 0.41 dB over bicubic (34.32 dB); 4 min on
one CPU core.
"""

import dataclasses

from experiments.recipes import restoration
from vaesr import runs, training
from vaesr.models.rcan import RCAN


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(restoration.Config):
    """RCAN on photographs."""

    # Network.
    model: RCAN = RCAN()


_BENCH = Config(
    data="random:photos", steps=1000, batch_size=2, eval_crop=48, test_crop=48,
    model=RCAN(groups=2, blocks=4), optim=training.OptimConfig(lr=1e-4),
)  # fmt: skip
PRESETS = {
    "smoke": Config(
        data="embedded:photos", steps=4, batch_size=2, patch=12, eval_every=4, checkpoint_every=4,
        log_every=2, eval_crop=48, test_crop=96,
        model=RCAN(channels=8, groups=1, blocks=1, reduction=4),
    ),
    "default": Config(
        data="embedded:photos", steps=4000, batch_size=8, patch=32, eval_every=1000, checkpoint_every=1000,
        model=RCAN(channels=32, groups=2, blocks=3, reduction=8), ema_decay=0.999,
        optim=training.OptimConfig(lr=1e-3, schedule="cosine", warmup=100),
    ),
    # Zhang et al. 2018, section 4.1: as EDSR's.
    "paper": Config(
        data="folder:DIV2K_train_HR", steps=1_000_000, batch_size=16, eval_every=1000, checkpoint_every=1000,
        optim=training.OptimConfig(lr=1e-4, schedule="step", step_every=200_000, step_factor=0.5),
    ),
    # What benchmarks measure: the paper's width, on CPUs at a part of its depth.
    "bench": _BENCH,
    "bench_accelerator": dataclasses.replace(_BENCH, batch_size=16, model=RCAN()),
}  # fmt: skip


def build(config: Config) -> runs.Experiment:
    """Wire data, network, objective and evaluation."""
    return restoration.build(config, label="RCAN", player="rcan")


if __name__ == "__main__":
    runs.main(PRESETS, build)
