"""DeOldify (Antic 2018): grey photos in colour, by a U-Net and NoGAN.

    python -m experiments.deoldify                               # embedded photos, 2 CPU cores
    python -m experiments.deoldify --data folder:PHOTOS          # your own photos
    python -m experiments.deoldify stable --data folder:PHOTOS   # ResNet101 and the wide decoder
    python -m experiments.deoldify artistic --data folder:PHOTOS # ResNet34 and the deep decoder
    vaesr upscale --run runs/deoldify/default/joint -i grey.jpg -o colour.png

The U-Net sees a photo's luma and makes a coloured one, of which the chroma is taken: the luma stays what it
was. It is trained alone with pixel and feature losses (the run folder itself); then a critic alone (critic/);
then both take turns for a short time (joint/). Pictures of every evaluation of the joint phase stay, to
choose by eye before artefacts set in. `--resume` goes on wherever a run stopped. PSNR of RGB and LPIPS are
measured; luma's own PSNR and SSIM say only that it stayed.
"""

import dataclasses
from collections.abc import Iterator

from experiments import gan, nogan, nogan_stages, stages
from vaesr import data, metrics, training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(nogan.Config):
    """DeOldify on photographs; the shared flags are the first stage's."""


# Without the sigmoid at the end, as decrappify's. What has which colour is seen in whole scenes, not in
# details of large photos: they are made smaller.
_SMALL = nogan.ModelConfig(
    blocks=(1, 1, 1), channels=32, norm="spectral", style="deep", factor=1.0, output_range=None
)
_DEFAULT = Config(
    data="embedded:photos", steps=2400, batch_size=8, patch=64, eval_every=800, checkpoint_every=800,
    model=_SMALL, style_weights=None, feature_weights=(0.6, 1.7, 2.5), ema_decay=0.999, shrink=4,
    eval_crop=96, test_crop=256,
    optim=training.OptimConfig(lr=1e-3, schedule="cosine", warmup=100),
    critic=nogan.CriticConfig(
        steps=400, eval_every=200, channels=16, blocks=2, optim=training.OptimConfig(lr=1e-3)
    ),
    joint=nogan.JointConfig(
        steps=400, eval_every=100, optim=training.OptimConfig(lr=3e-5, b1=0.0, b2=0.9),
    ),
)  # fmt: skip
_PAPER = Config(
    data="folder:ImageNet", steps=100_000, batch_size=20, patch=128, eval_every=5000, checkpoint_every=5000,
    style_weights=None, feature_weights=(20.0, 70.0, 10.0), features="vgg16-bn",
    optim=training.OptimConfig(lr=1e-3, schedule="cosine", warmup=5000),
    critic=nogan.CriticConfig(steps=10_000, eval_every=1000, optim=training.OptimConfig(lr=1e-3)),
    joint=nogan.JointConfig(
        steps=8000, eval_every=100, optim=training.OptimConfig(lr=2e-5, b1=0.0, b2=0.9),
    ),
    model=nogan.ModelConfig(
        blocks=(3, 4, 23, 3), bottleneck=True, style="wide", factor=2.0, norm="spectral"
    ),
)  # fmt: skip
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, steps=4, batch_size=2, eval_every=4, checkpoint_every=4, log_every=2, eval_crop=64,
        test_crop=96, patch=32, model=dataclasses.replace(_SMALL, channels=4, blocks=(1, 1, 1)),
        features="random", judge="none",
        critic=nogan.CriticConfig(
            steps=4, eval_every=4, channels=4, blocks=2, optim=training.OptimConfig(lr=1e-3)
        ),
        joint=nogan.JointConfig(steps=4, eval_every=4, optim=training.OptimConfig(lr=1e-4, b1=0.0, b2=0.9)),
    ),
    "default": _DEFAULT,
    # DeOldify's Stable and Artistic models; the authors train on growing sizes, 64 to 192 pixels.
    "stable": _PAPER,
    "artistic": dataclasses.replace(
        _PAPER, model=nogan.ModelConfig(style="deep", factor=1.5, norm="spectral"),
    ),
}  # fmt: skip


def plan(config: Config) -> Iterator[stages.Stage]:
    """Generator alone, critic alone, both.

    Args:
        config: with `workdir` set.

    Returns:
        The trainings.
    """
    opinions = {"psnr_rgb_db": metrics.psnr, **gan.opinions(config)}
    opinions.pop("niqe", None)  # of luma, which stays
    return nogan_stages.plan(config, degradation=data.fading, keep_luma=True, opinions=opinions)


if __name__ == "__main__":
    stages.main("experiments.deoldify", PRESETS, plan)
