"""DeOldify (Antic 2018): grey photos in colour, by a U-Net and NoGAN.

    python -m experiments.deoldify                               # embedded photos
    python -m experiments.deoldify --data folder:PHOTOS          # your own photos
    python -m experiments.deoldify stable --data folder:PHOTOS   # ResNet101 and the wide decoder
    python -m experiments.deoldify artistic --data folder:PHOTOS # ResNet34 and the deep decoder
    vaesr upscale --run runs/deoldify/default/joint -i grey.jpg -o colour.png

The U-Net sees a photo's luma and makes a coloured one, of which the chroma is taken: the luma stays what it
was. It is trained alone with pixel and feature losses (the run folder itself); then a critic alone (critic/);
then both take turns for a short time (joint/). Pictures of every evaluation of the joint phase stay, to
choose by eye before artefacts set in. `--resume` goes on wherever a run stopped. PSNR of RGB and LPIPS are
measured; luma's own PSNR and SSIM say only that it stayed.

Expected: nearer to the photos than grey. Measured: 32 photographs, 600 joint steps: 20.97 -> 22.91 dB (RGB),
LPIPS 0.270 -> 0.209; 26 min on one CPU core.
"""

import dataclasses
from collections.abc import Iterator

from experiments.recipes import adversarial, nogan
from vaesr import data, metrics, runs, training
from vaesr.models.critic import Critic
from vaesr.models.unet import UNet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(nogan.Config):
    """DeOldify on photographs; the shared flags are the first stage's."""


# Without the sigmoid at the end, as decrappify's. What has which colour is seen in whole scenes, not in
# details of large photos: they are made smaller.
_SMALL = UNet(blocks=(1, 1, 1), channels=32, norm="spectral", style="deep", factor=1.0, self_attention=True)
_DEFAULT = Config(
    data="embedded:photos", steps=2400, batch_size=8, patch=64, eval_every=800, checkpoint_every=800,
    model=_SMALL, style_weights=None, feature_weights=(0.6, 1.7, 2.5), ema_decay=0.999, shrink=4,
    eval_crop=96, test_crop=256,
    optim=training.OptimConfig(lr=1e-3, schedule="cosine", warmup=100),
    critic=nogan.CriticConfig(
        steps=400, eval_every=200, model=Critic(channels=16, blocks=2), optim=training.OptimConfig(lr=1e-3)
    ),
    joint=nogan.JointConfig(
        steps=400, eval_every=100, optim=training.OptimConfig(lr=3e-5, b1=0.0, b2=0.9),
    ),
)  # fmt: skip
_UNET = UNet(norm="spectral", self_attention=True, output_range=(-3.0, 3.0))
_PAPER = Config(
    data="folder:ImageNet", steps=100_000, batch_size=20, patch=128, eval_every=5000, checkpoint_every=5000,
    style_weights=None, feature_weights=(20.0, 70.0, 10.0), features="vgg16-bn",
    optim=training.OptimConfig(lr=1e-3, schedule="cosine", warmup=5000),
    critic=nogan.CriticConfig(steps=10_000, eval_every=1000, optim=training.OptimConfig(lr=1e-3)),
    joint=nogan.JointConfig(
        steps=8000, eval_every=100, optim=training.OptimConfig(lr=2e-5, b1=0.0, b2=0.9),
    ),
    model=_UNET.clone(blocks=(3, 4, 23, 3), bottleneck=True, style="wide", factor=2.0),
)  # fmt: skip
_BENCH = dataclasses.replace(
    _DEFAULT, data="random:photos", batch_size=2, eval_crop=48, test_crop=48, ema_decay=0.0, shrink=1,
    features="random-vgg19", perceptual_metric="none",
)  # fmt: skip
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, steps=4, batch_size=2, eval_every=4, checkpoint_every=4, log_every=2, eval_crop=64,
        test_crop=96, patch=32, model=_SMALL.clone(channels=4),
        features="random", perceptual_metric="none",
        critic=nogan.CriticConfig(
            steps=4, eval_every=4, model=Critic(channels=4, blocks=2), optim=training.OptimConfig(lr=1e-3)
        ),
        joint=nogan.JointConfig(steps=4, eval_every=4, optim=training.OptimConfig(lr=1e-4, b1=0.0, b2=0.9)),
    ),
    "default": _DEFAULT,
    # DeOldify's Stable and Artistic models; the authors train on growing sizes, 64 to 192 pixels.
    "paper": _PAPER,
    "stable": _PAPER,
    "artistic": dataclasses.replace(
        _PAPER, model=_UNET.clone(style="deep", factor=1.5),
    ),
    # What benchmarks measure: the small networks, and on accelerators those of Artistic.
    "bench": _BENCH,
    "bench_accelerator": dataclasses.replace(
        _BENCH, batch_size=20, patch=128, model=_UNET.clone(style="deep", factor=1.5),
        critic=dataclasses.replace(_BENCH.critic, model=Critic()),
    ),
}  # fmt: skip


def build(config: Config) -> Iterator[runs.Step]:
    """Generator alone, critic alone, both; `config.workdir` is set."""
    extra_metrics = {"psnr_rgb_db": metrics.psnr, **adversarial.perceptual_metrics(config)}
    extra_metrics.pop("niqe", None)  # of luma, which stays
    yield from nogan.plan(config, degradation=data.fading, keep_luma=True, extra_metrics=extra_metrics)


if __name__ == "__main__":
    runs.main(PRESETS, build)
