"""MDSR (Lim et al. 2017): one network for x2, x3 and x4, trained with L1 on one scale per step.

    python -m experiments.mdsr                                   # embedded photos
    python -m experiments.mdsr --data folder:PHOTOS              # your own photos
    python -m experiments.mdsr --model.scales 2 4                # of these scales only
    python -m experiments.mdsr baseline --data folder:DIV2K      # 16 blocks, 3.2 M parameters
    python -m experiments.mdsr paper --data folder:DIV2K         # the paper's 80 blocks, 8.0 M parameters
    vaesr upscale --run runs/mdsr/default -s 3 -i photo.jpg -o big.png

The scales share the trunk; each has its own pre-processing and upsampler. Low-resolution images are made on
the fly by MATLAB's bicubic and rounded to 8 bits. PSNR and SSIM are those of the benchmarks, for each scale:
luma, border of `scale` pixels left out, result rounded to 8 bits; on photos that no training step ever saw.
The report shows HR, bicubic and ours side by side, a row for each scale.

Expected: better than bicubic. Measured: +1.26, +0.82, +0.73 dB (± 0.2 each) over bicubic at x2, x3, x4;
9 min on one CPU core.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.recipes import restoration
from vaesr import data, evaluators, objectives, reports, runs, training
from vaesr.models.mdsr import MDSR


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(restoration.PhotoConfig):
    """MDSR on photographs."""

    # Network.
    model: MDSR = MDSR()
    # Side of the low-resolution patches, the same for all scales.
    patch: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        scales = self.model.scales
        if not scales or len(set(scales)) < len(scales) or not set(scales) <= {2, 3, 4, 8}:
            raise ValueError(f"--model.scales must be some of 2, 3, 4 and 8, each once, got {scales}.")
        self.check_crops(max(scales), "the largest scale")


# Validation photos that the report shows.
_STRIPS = 6
# Lim et al. 2017, sections 3.3 and 4.2; the authors' MDSR template has 650 epochs of 1000 updates.
_PAPER = Config(
    data="folder:DIV2K_train_HR",
    steps=650_000,
    batch_size=16,
    eval_every=1000,
    checkpoint_every=1000,
    optim=training.OptimConfig(lr=1e-4, schedule="step", step_every=200_000, step_factor=0.5),
)
_BENCH = Config(
    data="random:photos", steps=1000, batch_size=2, eval_crop=48, test_crop=48, model=MDSR(blocks=16),
    optim=training.OptimConfig(lr=1e-4),
)  # fmt: skip
PRESETS = {
    "smoke": Config(
        data="embedded:photos", steps=4, batch_size=2, patch=8, eval_every=4, checkpoint_every=4,
        log_every=2, eval_crop=48, test_crop=48, model=MDSR(scales=(2, 3), channels=4, blocks=1),
    ),
    "default": Config(
        data="embedded:photos", steps=4000, batch_size=8, patch=32, eval_every=1000, checkpoint_every=1000,
        model=MDSR(channels=32, blocks=4), ema_decay=0.999,
        optim=training.OptimConfig(lr=1e-3, schedule="cosine", warmup=100),
    ),
    "baseline": dataclasses.replace(_PAPER, model=MDSR(blocks=16)),
    "paper": _PAPER,
    # What benchmarks measure: the baseline, and on accelerators the paper's network.
    "bench": _BENCH,
    "bench_accelerator": dataclasses.replace(_BENCH, batch_size=16, model=MDSR()),
}  # fmt: skip


def build(config: Config) -> runs.Experiment:
    """Wire data, network, objective and evaluation."""
    scales = config.model.scales
    bank = data.open_bank(config.data, strict=config.strict)
    sampler = data.MultiScaleSampler(
        {s: data.PairSampler(bank, "train", config.batch_size, scale=s, patch=config.patch) for s in scales}
    )
    # "loop": on CPUs, convolution gradients inside `lax.switch` are as slow as inside `lax.scan`.
    model = config.model.clone(dtype=jnp.dtype(config.compute_dtype), conv_form="loop")

    def init(key: jax.Array) -> tuple[dict[str, Any], Any]:
        return {"mdsr": model.init(key, jnp.zeros((1, 8, 8, 3)), scale=scales[0])["params"]}, {}

    objective = objectives.multi_scale_pixel(model.apply, scales=scales)
    optimizer = training.make_optimizer(config.optim, steps=config.steps)
    evaluate, evaluate_test, figures = _evaluations(config, bank, model)
    return runs.Experiment(
        model=runs.describe_model(model),
        init=init,
        players={"mdsr": training.Player(objective, optimizer)},
        sampler=sampler,
        evaluate=evaluate,
        best_by="gain_db",
        evaluate_test=evaluate_test,
        figures=figures,
        ema_decay=config.ema_decay or None,
    )


def _evaluations(
    config: Config, bank: data.Bank, model: MDSR
) -> tuple[runs.Evaluate, runs.Evaluate, Callable[[dict[str, Any], Any, pathlib.Path, int], None]]:
    """What `runs.Experiment` calls `evaluate`, `evaluate_test` and `figures`."""
    scales = config.model.scales
    validation = {
        s: list(evaluators.photo_pairs(bank, "validation", scale=s, longest=config.eval_crop)) for s in scales
    }
    # Made here, so that a test split without a photo of the size needed stops the run before it trains.
    test = {s: evaluators.photo_pairs(bank, "test", scale=s, longest=config.test_crop) for s in scales}

    @functools.partial(jax.jit, static_argnames="scale")
    def apply(params: Any, x_lr: jax.Array, scale: int) -> jax.Array:
        return model.apply({"params": params}, x_lr, scale=scale)

    def evaluate(params: dict[str, Any], variables: Any) -> dict[str, float]:
        def upscaler(scale: int) -> evaluators.UpscaleOne:
            return lambda lr: apply(params["mdsr"], lr[None], scale=scale)[0]

        return _all_scales({s: evaluators.measure_pairs(validation[s], upscaler(s)) for s in scales})

    def evaluate_test(params: dict[str, Any], variables: Any) -> dict[str, float]:
        scores = {}
        for s in scales:
            print(f"x{s}:", flush=True)
            of_batch = functools.partial(apply, params["mdsr"], scale=s)
            upscaler = evaluators.tiled_upscaler(of_batch, scale=s, halo=model.receptive_radius)
            say = functools.partial(print, flush=True)
            scores[s] = evaluators.measure_pairs(test[s], upscaler, say=say, errors=True)
        return _all_scales(scores)

    def figures(params: dict[str, Any], variables: Any, directory: pathlib.Path, step: int) -> None:
        # A photo may be large enough for one scale and too small for another.
        names = list(dict.fromkeys(pair.name for own in validation.values() for pair in own))
        for name in names[:_STRIPS]:
            pairs = [pair for own in validation.values() for pair in own if pair.name == name]
            strips = [
                evaluators.compare_pair(
                    p, apply(params["mdsr"], p.lr[None], scale=p.scale)[0], label=f"MDSR x{p.scale}"
                )
                for p in pairs
            ]
            words = f"{name}, never trained on: {', '.join(f'x{pair.scale}' for pair in pairs)}."
            picture = directory / f"validation_{name.replace('/', '_')}.png"
            reports.save_image(picture, reports.stack_strips(strips), caption=words)

    return evaluate, evaluate_test, figures


def _all_scales(scores: dict[int, dict[str, float]]) -> dict[str, float]:
    """The mean gain over the scales, which chooses the checkpoint, then every scale's figures.

    Its standard error is that of gains that rise and fall together, as those of one photo do: at most that.
    """
    parts = [name for name in ("gain_db", "gain_se_db") if all(name in own for own in scores.values())]
    mean = {name: float(np.mean([own[name] for own in scores.values()])) for name in parts}
    for scale, own in scores.items():
        mean |= evaluators.name_by_scale(own, scale)
    return mean


if __name__ == "__main__":
    runs.main(PRESETS, build)
