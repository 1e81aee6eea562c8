"""decrappify (Antic, Howard and fastai 2018/19): photos made small, marked and compressed, and the way back.

    python -m experiments.decrappify                             # x2, embedded photos
    python -m experiments.decrappify --data folder:PHOTOS        # your own photos
    python -m experiments.decrappify paper --data folder:PHOTOS  # ResNet34, VGG16 with batch norm
    vaesr upscale --run runs/decrappify/default/joint -i small.jpg -o big.png

Crappification shrinks a photo bilinearly, writes a number on it and compresses it as JPEG of that quality. A
U-Net that sees the enlarged result learns to undo all of it: first alone, with pixel, feature and Gram losses
(the run folder itself); then a critic learns alone to tell its results from photos (critic/); then both take
turns for a short time (joint/): the critic moves until its loss is below 0.65, then the generator, once.
Pictures of every evaluation of the joint phase stay, to choose by eye. `--resume` goes on wherever a run
stopped. LPIPS is measured with AlexNet, the losses of the training are VGG's: the judge is another network.

Expected: 2 dB over the input by the generator alone, a lower LPIPS after NoGAN. Measured: +2.02 dB, LPIPS
0.394 -> 0.294; after NoGAN +1.17 dB, 0.272; 23 min on one CPU core.
"""

import dataclasses
from collections.abc import Iterator

from experiments.recipes import adversarial, nogan
from vaesr import data, runs, training
from vaesr.models.critic import Critic
from vaesr.models.unet import UNet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(nogan.Config):
    """decrappify on photographs; the shared flags are the first stage's."""

    # Write the quality on the photos.
    text: bool = True


# Measured on crops whose small version has 96 pixels a side, as fastai's: the number takes about the same
# share of them. A short training from scratch adds to the input, has no sigmoid to invert, and gains
# more, in LPIPS too, with a twelfth of the weights of features and style.
_DEFAULT = Config(
    data="embedded:photos", steps=3200, batch_size=8, patch=32, eval_every=800, checkpoint_every=800,
    model=UNet(scale=2, blocks=(1, 1, 1), channels=32, self_attention=True, residual=True),
    ema_decay=0.999,
    eval_crop=192, test_crop=192, feature_weights=(0.0125, 0.028, 0.038), style_weights=(5.0, 48.0, 200.0),
    optim=training.OptimConfig(lr=3e-3, schedule="cosine", warmup=100),
    critic=nogan.CriticConfig(
        steps=400, eval_every=200, model=Critic(channels=16, blocks=2, dense=True),
        optim=training.OptimConfig(lr=1e-3),
    ),
    joint=nogan.JointConfig(
        steps=400, eval_every=100, optim=training.OptimConfig(lr=2e-4, b1=0.0, b2=0.99),
    ),
)  # fmt: skip
_BENCH = dataclasses.replace(
    _DEFAULT, data="random:photos", batch_size=2, eval_crop=48, test_crop=48, ema_decay=0.0,
    features="random-vgg19", perceptual_metric="none",
)  # fmt: skip
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, steps=4, batch_size=2, eval_every=4, checkpoint_every=4, log_every=2, eval_crop=64,
        test_crop=96, patch=8,
        model=UNet(
            scale=4, blocks=(1, 1, 1), channels=4, self_attention=True, output_range=(-3.0, 3.0)
        ),
        features="random", perceptual_metric="none",
        critic=nogan.CriticConfig(
            steps=4, eval_every=4, model=Critic(channels=4, blocks=2, dense=True),
            optim=training.OptimConfig(lr=1e-3),
        ),
        joint=nogan.JointConfig(steps=4, eval_every=4, optim=training.OptimConfig(lr=1e-4, b1=0.0, b2=0.99)),
    ),
    "default": _DEFAULT,
    # fastai's course v3, lesson 7: batches of 32 at 128 pixels, one-cycle in the notebooks; GAN at 1e-4 with
    # the squared error weighted 50.
    "paper": Config(
        data="folder:PHOTOS", steps=10_000, batch_size=32, patch=32, eval_every=1000, checkpoint_every=1000,
        model=UNet(scale=4, self_attention=True, output_range=(-3.0, 3.0)), features="vgg16-bn",
        feature_weights=(5.0, 15.0, 2.0), style_weights=(125_000.0, 1_125_000.0, 20_000.0),
        optim=training.OptimConfig(name="adamw", lr=1e-3, weight_decay=1e-3, schedule="cosine", warmup=500),
        critic=nogan.CriticConfig(
            steps=2000, model=Critic(channels=128, dense=True), optim=training.OptimConfig(lr=1e-3)
        ),
        joint=nogan.JointConfig(
            steps=9000, eval_every=500, restoration="mse", restoration_weight=50.0,
            optim=training.OptimConfig(name="adamw", lr=1e-4, b1=0.0, b2=0.99, weight_decay=1e-3),
        ),
    ),
    # What benchmarks measure: the small networks, and on accelerators fastai's.
    "bench": _BENCH,
    "bench_accelerator": dataclasses.replace(
        _BENCH, batch_size=32, model=UNet(scale=4, self_attention=True, output_range=(-3.0, 3.0)),
        critic=dataclasses.replace(_BENCH.critic, model=Critic(channels=128, dense=True)),
    ),
}  # fmt: skip


def build(config: Config) -> Iterator[runs.Step]:
    """Generator alone, critic alone, both; `config.workdir` is set."""
    yield from nogan.plan(
        config, degradation=data.crappification(config.scale, text=config.text), keep_luma=False,
        extra_metrics=adversarial.perceptual_metrics(config),
    )  # fmt: skip


if __name__ == "__main__":
    runs.main(PRESETS, build)
