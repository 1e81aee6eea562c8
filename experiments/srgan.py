"""SRGAN (Ledig et al. 2017): SRResNet trained with squared error, then against a discriminator.

    python -m experiments.srgan                                  # x4, embedded photos
    python -m experiments.srgan table                            # the paper's table of variants
    python -m experiments.srgan --data folder:PHOTOS             # your own photos
    python -m experiments.srgan paper --data folder:IMAGENET     # 16 blocks, VGG19 (bring torchvision's file)
    vaesr upscale --run runs/srgan/default/srgan-vgg54 -i photo.jpg -o big.png

The first stage, SRResNet-MSE, is in the run folder itself, every variant in a folder of its name. Variants:
srresnet-vgg22 (features, no discriminator), srgan-mse, srgan-vgg22 and srgan-vgg54, after what the content
loss compares: pixels, an early layer (relu2_2) or the last one (relu5_4; with VGG16, relu5_3). When all are
done, they are measured and drawn side by side on the test photos, into the run folder's report. `--resume`
goes on wherever a run stopped. LPIPS is measured with AlexNet, the content loss of the training is VGG's:
the judge is another network.

Expected: the GANs have the lower LPIPS and the lower PSNR. Measured: LPIPS 0.268 -> 0.248, PSNR 29.45 ->
28.88 dB; all of the table 26 min on one CPU core.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from experiments.recipes import adversarial, restoration
from vaesr import data, evaluators, losses, reports, runs, training
from vaesr.models.discriminators import SRGANDiscriminator
from vaesr.models.srresnet import SRResNet

Variant = Literal["srresnet-vgg22", "srgan-mse", "srgan-vgg22", "srgan-vgg54"]
_LAYERS = {"mse": None, "vgg22": "relu2_2", "vgg54": "last_relu"}
_TITLES = {
    "": "SRResNet-MSE", "srresnet-vgg22": "SRResNet-VGG22", "srgan-mse": "SRGAN-MSE",
    "srgan-vgg22": "SRGAN-VGG22", "srgan-vgg54": "SRGAN-VGG54",
}  # fmt: skip
# Feature maps are divided by 12.75, section 3.2: their squared error by its square.
_RESCALING = 12.75**-2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(adversarial.Config):
    """SRGAN on photographs; the shared flags are the first stage's."""

    # Generator.
    model: SRResNet = SRResNet()
    # Second stage.
    gan: adversarial.GanConfig
    # Discriminator; its depth follows from the patches.
    discriminator: Annotated[SRGANDiscriminator, runs.Fixed("stages")] = SRGANDiscriminator()
    # What is trained after SRResNet-MSE, each from it.
    variants: tuple[Variant, ...] = ("srgan-vgg54",)
    # Weight of the squared error beside VGG's features: 0 in the paper. Deep features of small patches say
    # little about colours, which a short training then loses.
    anchor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        runs.check_least(self, 0, "anchor")
        restoration.check_sizes("discriminator", self.discriminator)


_GAN = adversarial.GanConfig(
    steps=1500, eval_every=500, kind="standard", adversarial_weight=1e-3, pixel_weight=1.0,
    ema_decay=0.99, optim=training.OptimConfig(lr=2e-4, schedule="cosine", final=0.1),
)  # fmt: skip
_DEFAULT = Config(
    data="embedded:photos", steps=6000, batch_size=8, patch=16, anchor=0.3, eval_every=1000,
    checkpoint_every=1000, model=SRResNet(channels=32, blocks=4), ema_decay=0.999, gan=_GAN,
    discriminator=SRGANDiscriminator(channels=16, hidden=128),
    optim=training.OptimConfig(lr=1e-3, schedule="cosine", warmup=100),
)  # fmt: skip
_BENCH = Config(
    data="random:photos", steps=1000, batch_size=2, patch=24, eval_crop=48, test_crop=48,
    model=SRResNet(blocks=4), features="random-vgg19", perceptual_metric="none",
    optim=training.OptimConfig(lr=1e-4),
    gan=dataclasses.replace(_GAN, ema_decay=0.0, optim=training.OptimConfig(lr=1e-4)),
)  # fmt: skip
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, steps=4, batch_size=2, patch=8, eval_every=4, checkpoint_every=4, log_every=2, eval_crop=48,
        test_crop=96, model=SRResNet(channels=4, blocks=1), features="random", perceptual_metric="none",
        gan=dataclasses.replace(_GAN, steps=4, eval_every=4),
        discriminator=SRGANDiscriminator(channels=4, hidden=8),
    ),
    "default": _DEFAULT,
    "table": dataclasses.replace(_DEFAULT, variants=("srgan-mse", "srgan-vgg22", "srgan-vgg54")),
    # Ledig et al. 2017, section 3.2: 10^6 steps at 1e-4, then 10^5 at 1e-4 and 10^5 at 1e-5, batches of 16
    # patches of 96 pixels.
    "paper": Config(
        data="folder:ImageNet", steps=1_000_000, batch_size=16, patch=24, eval_every=5000,
        checkpoint_every=5000, optim=training.OptimConfig(lr=1e-4), features="vgg19",
        variants=("srresnet-vgg22", "srgan-mse", "srgan-vgg22", "srgan-vgg54"),
        gan=dataclasses.replace(
            _GAN, steps=200_000, eval_every=5000, ema_decay=0.0,
            optim=training.OptimConfig(lr=1e-4, schedule="step", step_every=100_000, step_factor=0.1),
        ),
    ),
    # What benchmarks measure: the paper's networks, on CPUs a part of the generator's depth.
    "bench": _BENCH,
    "bench_accelerator": dataclasses.replace(_BENCH, batch_size=16, model=SRResNet()),
}  # fmt: skip


def build(config: Config) -> Iterator[runs.Step]:
    """SRResNet-MSE, then every variant from it, then all side by side; `config.workdir` is set."""
    assert config.workdir is not None
    variants = tuple(dict.fromkeys(config.variants))
    # Before the first stage, which may take days.
    for layer in {_layer(variant) for variant in variants} - {None}:
        adversarial.load_features(config, layer)
    yield runs.Stage("", config, build_srresnet)
    own = adversarial.own_config(config, config.gan, ema_decay=config.gan.ema_decay)
    for variant in variants:
        yield runs.Stage(variant, own, functools.partial(build_variant, config.workdir, variant))
    yield functools.partial(compare, config)


def generator(config: Config) -> SRResNet:
    """The generator of a configuration."""
    axis_name = "data" if config.parallel == "pmap" else None
    return config.model.clone(dtype=jnp.dtype(config.compute_dtype), axis_name=axis_name)


def squared_error(x_sr: jax.Array, x_hr: jax.Array) -> jax.Array:
    """The squared error `[B]` of images `[B, H, W, 3]` in [0, 1], on the paper's scale of -1 to 1."""
    return 4 * losses.mse_loss(x_sr, x_hr)


def build_srresnet(config: Config) -> runs.Experiment:
    """The first stage: squared error alone."""
    return adversarial.build_alone(config, generator(config), label=_TITLES[""], pixel_loss=squared_error)


def build_variant(first: pathlib.Path, variant: Variant, config: Config) -> runs.Experiment:
    """A second stage, from the first one's run folder; `config` is the stage's own."""
    layer = _layer(variant)
    settings = dataclasses.replace(
        config.gan, content_weight=config.gan.content_weight * _RESCALING,
        pixel_weight=config.gan.pixel_weight if layer is None else config.anchor,
    )  # fmt: skip
    discriminator = None
    if variant.startswith("srgan"):
        discriminator = config.discriminator.clone(stages=_stages(config.patch * config.scale))
    return adversarial.build(
        config, settings, generator(config), discriminator, label=_TITLES[variant], first=first, layer=layer,
        distance=losses.mse_loss, pixel_loss=squared_error,
    )  # fmt: skip


def _layer(variant: Variant) -> str | None:
    """Which layer of VGG a variant compares; None compares pixels."""
    return _LAYERS[variant.partition("-")[2]]


def _stages(side: int) -> int:
    """Pairs of convolutions of the discriminator: the paper's 4, or as many as the patch can be halved."""
    count = next((n for n in (4, 3, 2, 1) if side % 2**n == 0), 0)
    if not count:
        raise runs.UserError(f"--patch makes high-resolution patches of {side} pixels; take an even number.")
    return count


def compare(config: Config) -> None:
    """Measure and draw all networks on the test photos; into the first stage's report."""
    assert config.workdir is not None
    trained = {name: runs.load_run(config.workdir / name) for name in ("", *config.variants)}
    bank = data.open_bank(config.data, strict=config.strict)
    evaluator = adversarial.make_evaluator(config, bank, trained[""].model, "")
    upscalers: dict[str, Callable[[jax.Array], Any]] = {
        _TITLES[name]: evaluator.upscaler(run.params, run.variables) for name, run in trained.items()
    }
    test = list(evaluator.test)
    table = {
        title: evaluators.measure_pairs(test, upscale, extra_metrics=evaluator.extra_metrics, errors=True)
        for title, upscale in upscalers.items()
    }
    (config.workdir / "table.json").write_text(json.dumps(table, indent=1))
    names = ["psnr_y_db", "ssim_y", *evaluator.extra_metrics]
    first = next(iter(table.values()))
    bicubic = {name: value for name, value in first.items() if name.startswith("bicubic_")}
    rows = {"bicubic": {name.removeprefix("bicubic_"): value for name, value in bicubic.items()}, **table}
    print("".join([f"{'':<16}", *(f"{name:>12}" for name in names)]))
    for title, row in rows.items():
        print("".join([f"{title:<16}", *(f"{row[name]:>12.4f}" for name in names)]), flush=True)
    figures = config.workdir / "figures"
    adversarial.save_strips(evaluator, upscalers, figures, pairs=test, name="1_test_{}.png")
    with training.MetricsWriter(config.workdir) as writer:
        shown = [each for name in names for each in (name, reports.error_name(name))]
        values = {f"{title}/{n}": row[n] for title, row in rows.items() for n in shown if n in row}
        writer.write(trained[""].step, "test", values)
    reports.write_report(config.workdir)


if __name__ == "__main__":
    runs.main(PRESETS, build)
