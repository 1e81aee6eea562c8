"""EDSR (Lim et al. 2017): residual super-resolution of photographs, trained with L1.

    python -m experiments.edsr                                   # x2, embedded photos
    python -m experiments.edsr --data folder:PHOTOS              # your own photos
    python -m experiments.edsr baseline --data folder:DIV2K      # the paper's 1.4 M parameter network
    python -m experiments.edsr paper --data folder:DIV2K         # the paper's 43 M parameter network
    python -m experiments.edsr --model.scale 4 --init-from runs/edsr/default --workdir runs/edsr/x4

Low-resolution images are made on the fly by MATLAB's bicubic and rounded to 8 bits. PSNR and SSIM are those
of the benchmarks: luma, border of `scale` pixels left out, result rounded to 8 bits; on photos that no
training step ever saw. The report shows HR, bicubic and ours side by side.

Expected: 0.8 dB over bicubic. Measured: +1.96 ± 0.44 dB over bicubic (34.49 dB); 4 min on one
CPU core.
"""

import dataclasses

from experiments.recipes import restoration
from vaesr import runs, training
from vaesr.models.edsr import EDSR


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(restoration.Config):
    """EDSR on photographs."""

    # Network.
    model: EDSR = EDSR()


_PAPER = Config(
    data="folder:DIV2K_train_HR",
    steps=300_000,
    batch_size=16,
    eval_every=1000,
    checkpoint_every=1000,
    optim=training.OptimConfig(lr=1e-4, schedule="step", step_every=200_000, step_factor=0.5),
)
_BENCH = Config(
    data="random:photos", steps=1000, batch_size=4, eval_crop=48, test_crop=48,
    optim=training.OptimConfig(lr=1e-4),
)  # fmt: skip
PRESETS = {
    "smoke": Config(
        data="embedded:photos", steps=4, batch_size=2, patch=12, eval_every=4, checkpoint_every=4,
        log_every=2, eval_crop=48, test_crop=96, model=EDSR(channels=8, blocks=1),
    ),
    # A network of 1/20 of the baseline's work, so that minutes on 2 CPU cores show what training brings.
    "default": Config(
        data="embedded:photos", steps=6000, batch_size=8, patch=32, eval_every=1000, checkpoint_every=1000,
        model=EDSR(channels=32, blocks=4), ema_decay=0.999,
        optim=training.OptimConfig(lr=1e-3, schedule="cosine", warmup=100),
    ),
    # Lim et al. 2017, sections 4.2 and 4.3: the 16 x 64 and the 32 x 256 network.
    "baseline": _PAPER,
    "paper": dataclasses.replace(
        _PAPER, model=EDSR(channels=256, blocks=32, residual_scale=0.1)
    ),
    # What benchmarks measure: the baseline, and on accelerators the paper's network too.
    "bench": _BENCH,
    "bench_accelerator": dataclasses.replace(_BENCH, batch_size=16),
    "bench_paper_accelerator": dataclasses.replace(
        _BENCH, batch_size=16, model=EDSR(channels=256, blocks=32, residual_scale=0.1)
    ),
}  # fmt: skip


def build(config: Config) -> runs.Experiment:
    """Wire data, network, objective and evaluation."""
    return restoration.build(config, label="EDSR", player="edsr")


if __name__ == "__main__":
    runs.main(PRESETS, build)
