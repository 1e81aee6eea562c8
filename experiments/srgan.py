"""SRGAN (Ledig et al. 2017): SRResNet trained with squared error, then against a discriminator.

    python -m experiments.srgan                                  # x4, embedded photos, 2 CPU cores
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
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp

from experiments import base, gan, sr, stages
from vaesr import data, inference, losses, objectives, reports, training
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


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The generator."""

    # Upscaling factor: 2, 3, 4 or 8.
    scale: int = 4
    # Width throughout.
    channels: int = 64
    # Residual blocks.
    blocks: int = 16
    # How GPUs and TPUs multiply float32: by default in TF32 or bfloat16, highest in full.
    precision: Literal["default", "high", "highest"] = "default"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(gan.Config):
    """SRGAN on photographs; the shared flags are the first stage's."""

    # Generator.
    model: ModelConfig = ModelConfig()
    # Second stage.
    gan: gan.GanConfig
    # What is trained after SRResNet-MSE, each from it.
    variants: tuple[Variant, ...] = ("srgan-vgg54",)
    # Weight of the squared error beside VGG's features: 0 in the paper. Deep features of small patches say
    # little about colours, which a short training then loses.
    anchor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.anchor >= 0:
            raise ValueError(f"--anchor must be at least 0, got {self.anchor}.")


_GAN = gan.GanConfig(
    steps=1500, eval_every=500, kind="standard", adversarial_weight=1e-3, pixel_weight=1.0, channels=16,
    hidden=128, ema_decay=0.99, optim=training.OptimConfig(lr=2e-4, schedule="cosine", final=0.1),
)  # fmt: skip
_DEFAULT = Config(
    data="embedded:photos", steps=6000, batch_size=8, patch=16, anchor=0.3, eval_every=1000,
    checkpoint_every=1000, model=ModelConfig(channels=32, blocks=4), ema_decay=0.999, gan=_GAN,
    optim=training.OptimConfig(lr=1e-3, schedule="cosine", warmup=100),
)  # fmt: skip
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, steps=4, batch_size=2, patch=8, eval_every=4, checkpoint_every=4, log_every=2, eval_crop=48,
        test_crop=96, model=ModelConfig(channels=4, blocks=1), features="random", judge="none",
        gan=dataclasses.replace(_GAN, steps=4, eval_every=4, channels=4, hidden=8),
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
            _GAN, steps=200_000, eval_every=5000, channels=64, hidden=1024, ema_decay=0.0,
            optim=training.OptimConfig(lr=1e-4, schedule="step", step_every=100_000, step_factor=0.1),
        ),
    ),
}  # fmt: skip


def plan(config: Config) -> Iterator[stages.Stage]:
    """SRResNet-MSE, then every variant from it, then all side by side.

    Args:
        config: with `workdir` set.

    Yields:
        The trainings.
    """
    assert config.workdir is not None
    variants = tuple(dict.fromkeys(config.variants))
    # Before the first stage, which may take days.
    for layer in {_layer(variant) for variant in variants} - {None}:
        gan.load_features(config, layer)
    yield stages.Stage("", config, build_srresnet)
    for variant in variants:
        build = functools.partial(build_variant, config.workdir, variant)
        yield stages.Stage(variant, gan.own_config(config, config.gan), build)
    if jax.process_index() == 0:
        compare(config)


def generator(config: Config) -> SRResNet:
    """The generator of a configuration.

    Args:
        config: see `Config`.

    Returns:
        The module.
    """
    return SRResNet(
        dtype=jnp.dtype(config.compute_dtype), axis_name="data" if config.parallel == "pmap" else None,
        **dataclasses.asdict(config.model),
    )  # fmt: skip


def squared_error(x_sr: jax.Array, x_hr: jax.Array) -> jax.Array:
    """The squared error of images on the paper's scale of -1 to 1.

    Args:
        x_sr: `[B, H, W, 3]` in [0, 1].
        x_hr: the same shape.

    Returns:
        `[B]`.
    """
    return 4 * losses.mse(x_sr, x_hr)


def build_srresnet(config: Config) -> base.Experiment:
    """The first stage: squared error alone.

    Args:
        config: see `Config`.

    Returns:
        The experiment.
    """
    model = generator(config)
    objective = objectives.restoration(
        objectives.in_training(model.apply), player=gan.GENERATOR, pixel_loss=squared_error
    )
    return sr.build(
        config, model, label=_TITLES[""], player=gan.GENERATOR, objective=objective,
        opinions=gan.opinions(config),
    )  # fmt: skip


def build_variant(first: pathlib.Path, variant: Variant, config: Config) -> base.Experiment:
    """A second stage.

    Args:
        first: the first stage's run folder.
        variant: which.
        config: the stage's own.

    Returns:
        The experiment.
    """
    layer = _layer(variant)
    settings = dataclasses.replace(
        config.gan, content_weight=config.gan.content_weight * _RESCALING,
        pixel_weight=config.gan.pixel_weight if layer is None else config.anchor,
    )  # fmt: skip
    discriminator = None
    if variant.startswith("srgan"):
        side = config.patch * config.scale
        discriminator = SRGANDiscriminator(
            channels=settings.channels, hidden=settings.hidden, stages=_stages(side),
            dtype=jnp.dtype(config.compute_dtype), axis_name="data" if config.parallel == "pmap" else None,
        )  # fmt: skip
    return gan.build(
        config, settings, generator(config), discriminator, label=_TITLES[variant], first=first, layer=layer,
        distance=losses.mse, pixel_loss=squared_error,
    )  # fmt: skip


def _layer(variant: Variant) -> str | None:
    """Which layer of VGG a variant compares; None compares pixels."""
    return _LAYERS[variant.partition("-")[2]]


def _stages(side: int) -> int:
    """Pairs of convolutions of the discriminator: the paper's 4, or as many as the patch can be halved."""
    count = next((n for n in (4, 3, 2, 1) if side % 2**n == 0), 0)
    if not count:
        raise base.UserError(f"--patch makes high-resolution patches of {side} pixels; take an even number.")
    return count


def compare(config: Config) -> None:
    """Measure and draw all networks on the test photos; into the first stage's report.

    Args:
        config: with `workdir` set.
    """
    assert config.workdir is not None
    runs = {name: inference.load_run(config.workdir / name) for name in ("", *config.variants)}
    bank = data.open_bank(config.data, strict=config.strict)
    study = sr.make_study(
        config, bank, runs[""].model, player=gan.GENERATOR, label="", opinions=gan.opinions(config)
    )
    upscalers: dict[str, Callable[[jax.Array], Any]] = {
        _TITLES[name]: study.upscaler(run.params, run.variables) for name, run in runs.items()
    }
    test = list(study.test)
    table = {
        title: inference.score_pairs(test, upscale, opinions=study.opinions)
        for title, upscale in upscalers.items()
    }
    (config.workdir / "table.json").write_text(json.dumps(table, indent=1))
    names = [name for name in ("psnr_y_db", "ssim_y", *study.opinions)]
    first = next(iter(table.values()))
    rows = {"bicubic": {name: first[f"bicubic_{name}"] for name in names}, **table}
    print("".join([f"{'':<16}", *(f"{name:>12}" for name in names)]))
    for title, row in rows.items():
        print("".join([f"{title:<16}", *(f"{row[name]:>12.4f}" for name in names)]), flush=True)
    figures = config.workdir / "figures"
    gan.save_strips(test, upscalers, figures, opinions=study.opinions, name="1_test_{}.png")
    with training.MetricsWriter(config.workdir) as writer:
        values = {f"{title}/{name}": row[name] for title, row in rows.items() for name in names}
        writer.write(runs[""].step, "test", values)
    reports.write_report(config.workdir)


if __name__ == "__main__":
    stages.main("experiments.srgan", PRESETS, plan)
