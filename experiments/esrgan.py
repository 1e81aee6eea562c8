"""ESRGAN (Wang et al. 2018): RRDBNet trained with L1, then against a discriminator; and all networks between.

    python -m experiments.esrgan                                 # x4, embedded photos
    python -m experiments.esrgan --data folder:PHOTOS            # your own photos
    python -m experiments.esrgan paper --data folder:DF2K        # 23 blocks, VGG19 (bring torchvision's file)
    vaesr upscale --run runs/esrgan/default/gan -i photo.jpg -o big.png

The first stage is in the run folder itself, the second in its folder gan/. When both are done, the networks
between them (G_interp of the paper) are measured on the test photos: PSNR and LPIPS against the share of the
GAN, and pictures of them, in the run folder's report. `--resume` goes on wherever a run stopped. LPIPS is
measured with AlexNet, the content loss of the training is VGG's: the judge is another network.

Expected: the GAN has the lower LPIPS and the lower PSNR. Measured: LPIPS 0.241 -> 0.184, NIQE 6.72 -> 5.50,
PSNR 29.77 -> 29.22 dB; 25 min on 2 CPU cores.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np

from experiments.recipes import adversarial, restoration
from vaesr import data, evaluators, inference, reports, runs, training
from vaesr.models.discriminators import VGGDiscriminator
from vaesr.models.rrdb import RRDBNet

_SHARES = 11
_PICTURED = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(adversarial.Config):
    """ESRGAN on photographs; the shared flags are the first stage's."""

    # Generator.
    model: RRDBNet = RRDBNet()
    # Second stage.
    gan: adversarial.GanConfig
    # Discriminator; its depth follows from the patches.
    discriminator: Annotated[VGGDiscriminator, runs.Fixed("stages")] = VGGDiscriminator()
    # Layer of the content loss, before the activation; "last" is the network's last convolution.
    layer: str = "last"

    def allowed_scales(self) -> tuple[int, ...]:
        """The scales that the network takes."""
        return (2, 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        restoration.check_sizes("discriminator", self.discriminator)


_DEFAULT = Config(
    data="embedded:photos", steps=5000, batch_size=8, patch=16, eval_every=1000, checkpoint_every=1000,
    model=RRDBNet(channels=32, growth=16, blocks=3), ema_decay=0.999, layer="conv3_3",
    optim=training.OptimConfig(lr=1e-3, schedule="cosine", warmup=100),
    gan=adversarial.GanConfig(
        steps=3000, eval_every=500, pixel_weight=1.0, ema_decay=0.99,
        optim=training.OptimConfig(lr=2e-4),
    ),
    discriminator=VGGDiscriminator(channels=16),
)  # fmt: skip
_BENCH = Config(
    data="random:photos", steps=1000, batch_size=1, patch=32, eval_crop=48, test_crop=48,
    model=RRDBNet(blocks=2), features="random-vgg19", perceptual_metric="none",
    optim=training.OptimConfig(lr=1e-4),
    gan=adversarial.GanConfig(steps=1000, optim=training.OptimConfig(lr=1e-4)),
)  # fmt: skip
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, steps=4, batch_size=2, patch=8, eval_every=4, checkpoint_every=4, log_every=2, eval_crop=48,
        test_crop=96, model=RRDBNet(channels=8, growth=4, blocks=1), features="random",
        perceptual_metric="none",
        gan=adversarial.GanConfig(steps=4, eval_every=4, optim=training.OptimConfig(lr=1e-4)),
        discriminator=VGGDiscriminator(channels=4, hidden=8),
    ),
    "default": _DEFAULT,
    # Wang et al. 2018, section 4.1; the authors' code: 1,000,000 steps of L1 at 2e-4, then 400,000 at 1e-4
    # (halved at 50,000, 100,000, 200,000 and 300,000), batches of 16 patches of 128 pixels.
    "paper": Config(
        data="folder:DF2K", steps=1_000_000, batch_size=16, patch=32, eval_every=5000, checkpoint_every=5000,
        optim=training.OptimConfig(lr=2e-4, schedule="step", step_every=200_000, step_factor=0.5),
        features="vgg19", layer="conv5_4",
        gan=adversarial.GanConfig(
            steps=400_000, eval_every=5000,
            optim=training.OptimConfig(
                lr=1e-4, schedule="steps", step_at=(50_000, 100_000, 200_000, 300_000), step_factor=0.5
            ),
        ),
    ),
    # What benchmarks measure: the paper's networks, on CPUs a part of the generator's depth.
    "bench": _BENCH,
    "bench_accelerator": dataclasses.replace(_BENCH, batch_size=16, model=RRDBNet()),
}  # fmt: skip


def build(config: Config) -> Iterator[runs.Step]:
    """PSNR network, GAN, networks between; `config.workdir` is set."""
    assert config.workdir is not None
    adversarial.halvings(config.patch * config.scale, "--patch")
    # Before the first stage, which may take days.
    adversarial.load_features(config, config.layer)
    yield runs.Stage("", config, build_psnr)
    yield runs.Stage(
        "gan",
        adversarial.own_config(config, config.gan, ema_decay=config.gan.ema_decay),
        functools.partial(build_gan, config.workdir),
    )
    yield functools.partial(compare, config)


def build_psnr(config: Config) -> runs.Experiment:
    """The first stage: L1 on images in [0, 1]."""
    return adversarial.build_alone(config, restoration.in_compute_dtype(config), label="RRDB (PSNR)")


def build_gan(first: pathlib.Path, config: Config) -> runs.Experiment:
    """The second stage, from the first one's run folder; `config` is the stage's own."""
    stages = adversarial.halvings(config.patch * config.scale, "--patch")
    discriminator = config.discriminator.clone(stages=stages)
    return adversarial.build(
        config, config.gan, restoration.in_compute_dtype(config), discriminator, label="ESRGAN", first=first,
        layer=config.layer,
    )  # fmt: skip


def compare(config: Config) -> None:
    """Measure and draw the networks between the two stages; into the first stage's report."""
    assert config.workdir is not None
    before, after = runs.load_run(config.workdir), runs.load_run(config.workdir / "gan")
    bank = data.open_bank(config.data, strict=config.strict)
    evaluator = adversarial.make_evaluator(config, bank, before.model, "between")

    def mixed(share: float) -> dict[str, Any]:
        own = adversarial.GENERATOR
        return {own: inference.interpolate(before.params[own], after.params[own], share)}

    test = list(evaluator.test)
    rows = []
    for share in np.linspace(0, 1, _SHARES):
        found = evaluators.measure_pairs(
            test, evaluator.upscaler(mixed(share), {}), extra_metrics=evaluator.extra_metrics
        )
        rows.append({"share": float(share), **found})
        print(f"  share of the GAN {share:.1f}: {found['psnr_y_db']:.2f} dB" + _lpips(found), flush=True)
    (config.workdir / "interpolation.json").write_text(json.dumps(rows, indent=1))
    figures = config.workdir / "figures"
    reports.save_image(
        figures / "1_interpolation.png",
        reports.plot_panels(_panels(rows)),
        caption="Networks between the PSNR network (0) and the GAN (1), on the test photos.",
    )
    upscalers = {f"{share:g}": evaluator.upscaler(mixed(share), {}) for share in _PICTURED}
    adversarial.save_strips(evaluator, upscalers, figures, pairs=test, name="2_test_{}.png")
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
    runs.main(PRESETS, build)
