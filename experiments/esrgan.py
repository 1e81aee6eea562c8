"""ESRGAN (Wang et al. 2018): RRDBNet trained with L1, then against a discriminator; and all networks between.

    python -m experiments.esrgan                                 # x4, embedded photos, 2 CPU cores
    python -m experiments.esrgan --data folder:PHOTOS            # your own photos
    python -m experiments.esrgan paper --data folder:DF2K        # 23 blocks, VGG19 (bring torchvision's file)
    vaesr upscale --run runs/esrgan/default/gan -i photo.jpg -o big.png

The first stage is in the run folder itself, the second in its folder gan/. When both are done, the networks
between them (G_interp of the paper) are measured on the test photos: PSNR and LPIPS against the share of the
GAN, and pictures of them, in the run folder's report. `--resume` goes on wherever a run stopped. LPIPS is
measured with AlexNet, the content loss of the training is VGG's: the judge is another network.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import base, gan, sr, stages
from vaesr import data, inference, objectives, reports, training
from vaesr.models.discriminators import VGGDiscriminator
from vaesr.models.rrdb import RRDBNet

_SHARES = 11
_PICTURED = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The generator."""

    # Upscaling factor: 4 or 2.
    scale: int = 4
    # Width of the trunk.
    channels: int = 64
    # Outputs of each dense convolution.
    growth: int = 32
    # Residual-in-residual dense blocks.
    blocks: int = 23
    # Recompute each block in the backward pass: less memory, a third more work.
    remat: bool = False
    # How GPUs and TPUs multiply float32: by default in TF32 or bfloat16, highest in full.
    precision: Literal["default", "high", "highest"] = "default"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(gan.Config):
    """ESRGAN on photographs; the shared flags are the first stage's."""

    # Generator.
    model: ModelConfig = ModelConfig()
    # Second stage.
    gan: gan.GanConfig
    # Layer of the content loss, before the activation; "last" is the network's last convolution.
    layer: str = "last"

    def allowed_scales(self) -> tuple[int, ...]:
        """The scales that the network takes."""
        return (2, 4)


_DEFAULT = Config(
    data="embedded:photos", steps=5000, batch_size=8, patch=16, eval_every=1000, checkpoint_every=1000,
    model=ModelConfig(channels=32, growth=16, blocks=3), ema_decay=0.999, layer="conv3_3",
    optim=training.OptimConfig(lr=1e-3, schedule="cosine", warmup=100),
    gan=gan.GanConfig(
        steps=3000, eval_every=500, pixel_weight=1.0, channels=16, ema_decay=0.99,
        optim=training.OptimConfig(lr=2e-4),
    ),
)  # fmt: skip
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, steps=4, batch_size=2, patch=8, eval_every=4, checkpoint_every=4, log_every=2, eval_crop=48,
        test_crop=96, model=ModelConfig(channels=8, growth=4, blocks=1), features="random", judge="none",
        gan=gan.GanConfig(steps=4, eval_every=4, channels=4, hidden=8, optim=training.OptimConfig(lr=1e-4)),
    ),
    "default": _DEFAULT,
    # Wang et al. 2018, section 4.1; the authors' code: 1,000,000 steps of L1 at 2e-4, then 400,000 at 1e-4
    # (halved at 50,000, 100,000, 200,000 and 300,000), batches of 16 patches of 128 pixels.
    "paper": Config(
        data="folder:DF2K", steps=1_000_000, batch_size=16, patch=32, eval_every=5000, checkpoint_every=5000,
        optim=training.OptimConfig(lr=2e-4, schedule="step", step_every=200_000, step_factor=0.5),
        features="vgg19", layer="conv5_4",
        gan=gan.GanConfig(
            steps=400_000, eval_every=5000,
            optim=training.OptimConfig(
                lr=1e-4, schedule="steps", step_at=(50_000, 100_000, 200_000, 300_000), step_factor=0.5
            ),
        ),
    ),
}  # fmt: skip


def plan(config: Config) -> Iterator[stages.Stage]:
    """PSNR network, GAN, networks between.

    Args:
        config: with `workdir` set.

    Yields:
        The trainings.
    """
    assert config.workdir is not None
    gan.halvings(config.patch * config.scale, "--patch")
    # Before the first stage, which may take days.
    gan.load_features(config, config.layer)
    yield stages.Stage("", config, build_psnr)
    yield stages.Stage(
        "gan", gan.own_config(config, config.gan), functools.partial(build_gan, config.workdir)
    )
    if jax.process_index() == 0:
        compare(config)


def generator(config: Config) -> RRDBNet:
    """The generator of a configuration.

    Args:
        config: see `Config`.

    Returns:
        The module.
    """
    return RRDBNet(dtype=jnp.dtype(config.compute_dtype), **dataclasses.asdict(config.model))


def build_psnr(config: Config) -> base.Experiment:
    """The first stage: L1 on images in [0, 1].

    Args:
        config: see `Config`.

    Returns:
        The experiment.
    """
    model = generator(config)
    objective = objectives.restoration(objectives.in_training(model.apply), player=gan.GENERATOR)
    return sr.build(
        config, model, label="RRDB (PSNR)", player=gan.GENERATOR, objective=objective,
        opinions=gan.opinions(config),
    )  # fmt: skip


def build_gan(first: pathlib.Path, config: Config) -> base.Experiment:
    """The second stage.

    Args:
        first: the first stage's run folder.
        config: the stage's own.

    Returns:
        The experiment.
    """
    discriminator = VGGDiscriminator(
        channels=config.gan.channels, hidden=config.gan.hidden,
        stages=gan.halvings(config.patch * config.scale, "--patch"),
        dtype=jnp.dtype(config.compute_dtype), axis_name="data" if config.parallel == "pmap" else None,
    )  # fmt: skip
    return gan.build(
        config, config.gan, generator(config), discriminator, label="ESRGAN", first=first, layer=config.layer
    )


def compare(config: Config) -> None:
    """Measure and draw the networks between the two stages; into the first stage's report.

    Args:
        config: with `workdir` set.
    """
    assert config.workdir is not None
    before, after = inference.load_run(config.workdir), inference.load_run(config.workdir / "gan")
    bank = data.open_bank(config.data, strict=config.strict)
    study = sr.make_study(
        config, bank, before.model, player=gan.GENERATOR, label="between", opinions=gan.opinions(config)
    )

    def mixed(share: float) -> dict[str, Any]:
        own = gan.GENERATOR
        return {own: inference.interpolate(before.params[own], after.params[own], share)}

    test = list(study.test)
    rows = []
    for share in np.linspace(0, 1, _SHARES):
        found = inference.score_pairs(test, study.upscaler(mixed(share), {}), opinions=study.opinions)
        rows.append({"share": float(share), **found})
        print(f"  share of the GAN {share:.1f}: {found['psnr_y_db']:.2f} dB" + _lpips(found), flush=True)
    (config.workdir / "interpolation.json").write_text(json.dumps(rows, indent=1))
    figures = config.workdir / "figures"
    reports.save_image(
        figures / "1_interpolation.png",
        reports.plot_panels(_panels(rows)),
        caption="Networks between the PSNR network (0) and the GAN (1), on the test photos.",
    )
    upscalers = {f"{share:g}": study.upscaler(mixed(share), {}) for share in _PICTURED}
    gan.save_strips(test, upscalers, figures, opinions=study.opinions, name="2_test_{}.png")
    reports.write_report(config.workdir)


def _lpips(scores: dict[str, float]) -> str:
    return f", LPIPS {scores['lpips_alex']:.3f}" if "lpips_alex" in scores else ""


def _panels(rows: list[dict[str, float]]) -> list[reports.Panel]:
    names = {
        "psnr_y_db": ("fidelity, higher is better", "PSNR, dB"),
        "lpips_alex": ("distance, lower is better", "LPIPS (AlexNet)"),
        "niqe": ("naturalness, lower is better", "NIQE"),
    }
    shares = [row["share"] for row in rows]
    return [
        reports.Panel(
            title=title, x_label="share of the GAN", y_label=unit,
            lines=(
                reports.Line("networks between", shares, [row[name] for row in rows]),
                reports.Line("bicubic", shares, [row[f"bicubic_{name}"] for row in rows], dashed=True),
            ),
        )
        for name, (title, unit) in names.items()
        if name in rows[0]
    ]  # fmt: skip


if __name__ == "__main__":
    stages.main("experiments.esrgan", PRESETS, plan)
