"""EDSR (Lim et al. 2017): residual super-resolution of photographs, trained with L1.

    python -m experiments.edsr                                   # x2, embedded photos, 2 CPU cores
    python -m experiments.edsr --data folder:PHOTOS              # your own photos
    python -m experiments.edsr baseline --data folder:DIV2K      # the paper's 1.4 M parameter network
    python -m experiments.edsr paper --data folder:DIV2K         # the paper's 43 M parameter network
    python -m experiments.edsr --model.scale 4 --init-from runs/edsr/default --workdir runs/edsr/x4

Low-resolution images are made on the fly by MATLAB's bicubic and rounded to 8 bits. PSNR and SSIM are those
of the benchmarks: luma, border of `scale` pixels left out, result rounded to 8 bits; on photos that no
training step ever saw. The report shows HR, bicubic and ours side by side.
"""

import dataclasses
import functools
import pathlib
from typing import Any, Literal

import flax.traverse_util
import jax
import jax.numpy as jnp

from experiments import base
from vaesr import data, inference, objectives, reports, training
from vaesr.models.edsr import EDSR


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    # Upscaling factor: 2, 3, 4 or 8.
    scale: int = 2
    # Width of the residual blocks.
    channels: int = 64
    # Residual blocks.
    blocks: int = 16
    # Factor on each residual branch; 0.1 steadies the wide network.
    residual_scale: float = 1.0
    # Recompute each block in the backward pass: less memory, a third more work.
    remat: bool = False
    # Loop over the blocks instead of unrolling them: smaller program.
    scan: bool = False
    # How GPUs and TPUs multiply float32: by default in TF32 or bfloat16, highest in full.
    precision: Literal["default", "high", "highest"] = "default"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(base.RunConfig):
    """EDSR on photographs."""

    # Network.
    model: ModelConfig = ModelConfig()
    # Optimizer.
    optim: training.OptimConfig = training.OptimConfig()
    # Side of the low-resolution patches.
    patch: int = 48
    # Side of the central crop of each validation photo that evaluations during training read.
    eval_crop: int = 192
    # Longest side of the central crop of each test photo.
    test_crop: int = 1024
    # Decay of the parameters' moving average; 0 keeps none.
    ema_decay: float = 0.0
    # Run folder whose parameters of the same name and shape to start from (x3 and x4 from x2).
    init_from: pathlib.Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.scale not in (2, 3, 4, 8):
            raise ValueError(f"--model.scale must be 2, 3, 4 or 8, got {self.model.scale}.")
        # SSIM needs 11 pixels a side once a border of `scale` is left out; a crop should show more than that.
        for flag, value, least, why in (
            ("--eval-crop", self.eval_crop, 12 * self.model.scale, " (12 x the scale)"),
            ("--test-crop", self.test_crop, 12 * self.model.scale, " (12 x the scale)"),
            ("--patch", self.patch, 1, ""),
            ("--model.channels", self.model.channels, 1, ""),
            ("--model.blocks", self.model.blocks, 1, ""),
        ):
            if value < least:
                raise ValueError(f"{flag} must be at least {least}{why}, got {value}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema-decay must be from 0 to less than 1, got {self.ema_decay}.")


# Validation photos that the report shows.
_STRIPS = 6
_PAPER = Config(
    data="folder:DIV2K_train_HR",
    steps=300_000,
    batch_size=16,
    eval_every=1000,
    checkpoint_every=1000,
    optim=training.OptimConfig(lr=1e-4, schedule="step", step_every=200_000, step_factor=0.5),
)
PRESETS = {
    "smoke": Config(
        data="embedded:photos", steps=4, batch_size=2, patch=12, eval_every=4, checkpoint_every=4,
        log_every=2, eval_crop=48, test_crop=96, model=ModelConfig(channels=8, blocks=1),
    ),
    # A network of 1/20 of the baseline's work, so that minutes on 2 CPU cores show what training brings.
    "default": Config(
        data="embedded:photos", steps=6000, batch_size=8, patch=32, eval_every=1000, checkpoint_every=1000,
        model=ModelConfig(channels=32, blocks=4), ema_decay=0.999,
        optim=training.OptimConfig(lr=1e-3, schedule="cosine", warmup=100),
    ),
    # Lim et al. 2017, sections 4.2 and 4.3: the 16 x 64 and the 32 x 256 network.
    "baseline": _PAPER,
    "paper": dataclasses.replace(
        _PAPER, model=ModelConfig(channels=256, blocks=32, residual_scale=0.1)
    ),
}  # fmt: skip


def build(config: Config) -> base.Experiment:
    """Wire data, network, objective and evaluation.

    Args:
        config: see `Config`.

    Returns:
        The experiment.
    """
    scale = config.model.scale
    bank = data.open_bank(config.data, strict=config.strict)
    sampler = data.PairSampler(bank, "train", config.batch_size, scale=scale, patch=config.patch)
    model = EDSR(dtype=jnp.dtype(config.compute_dtype), **dataclasses.asdict(config.model))

    def init(key: jax.Array) -> tuple[dict[str, Any], Any]:
        return {"edsr": model.init(key, jnp.zeros((1, 8, 8, 3)))["params"]}, {}

    apply = jax.jit(lambda params, x: model.apply({"params": params}, x))
    validation = list(inference.photo_pairs(bank, "validation", scale=scale, longest=config.eval_crop))
    # Made here, so that a test split without a photo of the size needed stops the run before it trains.
    test = inference.photo_pairs(bank, "test", scale=scale, longest=config.test_crop)

    def evaluate(params: dict[str, Any], variables: Any) -> dict[str, float]:
        return inference.score_pairs(validation, lambda lr: apply(params["edsr"], lr[None])[0])

    def finish(params: dict[str, Any], variables: Any) -> dict[str, float]:
        upscale = inference.tiled_upscaler(
            functools.partial(apply, params["edsr"]), scale=scale, halo=model.receptive_radius
        )
        return inference.score_pairs(test, upscale, say=functools.partial(print, flush=True))

    def figures(params: dict[str, Any], variables: Any, directory: pathlib.Path, step: int) -> None:
        for pair in validation[:_STRIPS]:
            strip = inference.compare_pair(pair, apply(params["edsr"], pair.lr[None])[0], label="EDSR")
            picture = directory / f"validation_{pair.name.replace('/', '_')}.png"
            reports.save_image(picture, strip, caption=f"{pair.name}, never trained on.")

    return base.Experiment(
        model=inference.describe_model(model),
        init=init,
        players={
            "edsr": training.Player(
                objectives.pixel(model.apply), training.make_optimizer(config.optim, steps=config.steps)
            )
        },
        sampler=sampler,
        evaluate=evaluate,
        score="psnr_y_db",
        finish=finish,
        figures=figures,
        ema_decay=config.ema_decay or None,
        warm_start=functools.partial(_warm_start, config.init_from) if config.init_from else None,
    )


def _warm_start(run: pathlib.Path, params: dict[str, Any]) -> dict[str, Any]:
    """Take over every parameter of another run that has the same name and shape."""
    try:
        theirs = flax.traverse_util.flatten_dict(training.restore_params(run)[0]["edsr"])
    except (FileNotFoundError, KeyError) as error:
        raise base.UserError(f"--init-from {run} is no run of experiments.edsr: {error}") from error
    ours = flax.traverse_util.flatten_dict(params["edsr"])
    taken = {n: v for n, v in theirs.items() if n in ours and ours[n].shape == v.shape}
    if not taken:
        raise base.UserError(f"--init-from {run} has no parameter of the same name and shape as this model.")
    print(f"started from {len(taken)} of {len(ours)} tensors of {run}", flush=True)
    return {"edsr": flax.traverse_util.unflatten_dict({**ours, **taken})}


if __name__ == "__main__":
    base.main("experiments.edsr", PRESETS, build)
