"""SRCNN (Dong et al. 2016): three convolutions that sharpen an enlarged image, the first of its kind.

    python -m experiments.srcnn                                  # x2, embedded photos
    python -m experiments.srcnn --data folder:PHOTOS             # your own photos
    python -m experiments.srcnn paper --data folder:IMAGES       # the paper's patches, SGD and 9-5-5 network

The luma of a bicubically enlarged image is restored; chroma stays bicubic. Low-resolution images are made on
the fly by MATLAB's bicubic and rounded to 8 bits. PSNR and SSIM are those of the benchmarks: luma, border of
`scale` pixels left out, result rounded to 8 bits; on photos that no training step ever saw.

Expected: better than bicubic. Measured: +0.59 ± 0.08 dB over bicubic (33.11 dB); 3.5 min on
one CPU core.
"""

import dataclasses
from typing import Any

import flax.traverse_util
import optax

from experiments.recipes import restoration
from vaesr import losses, objectives, runs, training
from vaesr.imaging import rgb_to_y
from vaesr.models.srcnn import SRCNN


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(restoration.Config):
    """SRCNN on photographs."""

    # Network.
    model: SRCNN = SRCNN()
    # Learning rate of the last convolution, as a share of the others'.
    last_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(side < 1 or side % 2 == 0 for side in self.model.kernels):
            raise ValueError(f"--model.kernels must be odd, got {self.model.kernels}.")
        if not self.last_rate > 0:
            raise ValueError(f"--last-rate must be above 0, got {self.last_rate}.")


_BENCH = Config(
    data="random:photos", steps=1000, batch_size=16, patch=24, eval_crop=48, test_crop=48,
    optim=training.OptimConfig(lr=1e-4),
)  # fmt: skip
PRESETS = {
    "smoke": Config(
        data="embedded:photos", steps=4, batch_size=2, patch=12, eval_every=4, checkpoint_every=4,
        log_every=2, eval_crop=48, test_crop=96, model=SRCNN(kernels=(3, 1, 3), widths=(4, 4)),
    ),
    # The paper's small rate for the last convolution is SGD's need, not Adam's.
    "default": Config(
        data="embedded:photos", steps=8000, batch_size=16, patch=24, eval_every=1000, checkpoint_every=1000,
        last_rate=1.0, ema_decay=0.999, optim=training.OptimConfig(lr=3e-3, schedule="cosine", warmup=100),
    ),
    # Dong et al. 2016, section 4: patches of 33 pixels of the enlarged image, SGD, 15 * 10^8 / 128 steps.
    "paper": Config(
        data="folder:ILSVRC2013_detection", steps=11_700_000, batch_size=128, patch=17, eval_every=10_000,
        checkpoint_every=10_000, model=SRCNN(kernels=(9, 5, 5)),
        optim=training.OptimConfig(name="sgd", lr=1e-4, b1=0.9),
    ),
    # What benchmarks measure.
    "bench": _BENCH,
    "bench_accelerator": dataclasses.replace(
        _BENCH, batch_size=128, patch=17, model=SRCNN(kernels=(9, 5, 5))
    ),
}  # fmt: skip


def build(config: Config) -> runs.Experiment:
    """Wire data, network, objective and evaluation."""
    model = restoration.in_compute_dtype(config)
    # The paper's loss is that of the luma alone, on 0 to 255 as SGD's rates expect.
    objective = objectives.restoration(
        objectives.in_training(model.apply), player="srcnn",
        pixel_weight=255.0**2 if config.optim.name == "sgd" else 1.0,
        pixel_loss=lambda x, y: losses.mse_loss(rgb_to_y(x), rgb_to_y(y)),
    )  # fmt: skip
    return restoration.build(
        config, model, label="SRCNN", player="srcnn", objective=objective, optimizer=_optimizer(config)
    )


def _optimizer(config: Config) -> optax.GradientTransformation:
    """A smaller rate for the last convolution, which the paper finds important to converge."""
    last = dataclasses.replace(config.optim, lr=config.optim.lr * config.last_rate)
    rates = {
        name: training.make_optimizer(optim, steps=config.steps)
        for name, optim in (("first", config.optim), ("last", last))
    }

    def names(params: Any) -> Any:
        flat = flax.traverse_util.flatten_dict(params)
        return flax.traverse_util.unflatten_dict(
            {path: "last" if path[0] == "conv_2" else "first" for path in flat}
        )

    return optax.multi_transform(rates, names)


if __name__ == "__main__":
    runs.main(PRESETS, build)
