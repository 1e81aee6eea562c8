"""ZSSR (Shocher, Cohen and Irani 2018): a small network for each photo, trained on that photo alone.

    python -m experiments.zssr                           # 4 photos, made small by kernels of chance
    python -m experiments.zssr bicubic                   # the bicubic reduction, turned and mirrored views
    python -m experiments.zssr --data folder:PHOTOS --batch-size 8
    vaesr upscale photo.jpg -n zssr                      # without a truth to compare with

Views of the photo are made small once more, by the same kernel, and the network learns the way back; then it
enlarges the photo itself. All photos are one program; each has its own learning rate and its own end.

Expected: 3 dB above bicubic enlargement where the kernel is known. Measured: +3.8 ± 0.7 dB over bicubic (±
standard error over 4 photos); 306 s on one CPU core.
"""

import dataclasses
import functools
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.recipes import blind
from vaesr import data, imaging, inference, metrics, objectives, reports, runs, training
from vaesr.models.zssr import ZSSR

_KERNEL_SIDE = 21


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(blind.Config):
    """Small networks of photos, one for each; --batch-size is how many."""

    # What made the photos small: kernels of chance, which the trainings are told; or the bicubic one.
    kernels: Literal["chance", "bicubic"] = "chance"
    # Network.
    model: ZSSR = ZSSR()
    # Optimizer; the rate falls to a tenth, three times, as --policy says.
    optim: training.OptimConfig = training.OptimConfig(lr=1e-3)
    # When the learning rate falls.
    policy: objectives.Policy = objectives.Policy()
    # Side of the views.
    side: int = 128
    # Standard deviation of noise on the views that were made small, in [0, 1].
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        runs.check_least(self, 16, "side")
        runs.check_least(self, 0, "noise")
        if self.model.scale not in (2, 3, 4):
            raise ValueError(f"--model.scale must be 2, 3 or 4, got {self.model.scale}.")
        if self.side % self.model.scale:
            raise ValueError(f"--side {self.side} must be a multiple of --model.scale {self.model.scale}.")


_DEFAULT = Config(
    data="embedded:photos", steps=1000, batch_size=4, crop=384, eval_every=250, checkpoint_every=250,
    log_every=50, dtype="float32",
)  # fmt: skip
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, steps=20, batch_size=2, eval_every=20, checkpoint_every=20, log_every=10, crop=128, side=32,
        model=ZSSR(channels=8, depth=3),
    ),
    "default": _DEFAULT,
    "bicubic": dataclasses.replace(_DEFAULT, kernels="bicubic"),
    "paper": dataclasses.replace(
        _DEFAULT, data="folder:BSD100", kernels="bicubic", batch_size=8, crop=512, steps=3000,
        eval_every=3000,
    ),
    "bench": dataclasses.replace(_DEFAULT, data="random:photos", batch_size=4, crop=256),
}  # fmt: skip


def build(config: Config) -> runs.Experiment:
    """Wire photos, network, policy and measurements."""
    scale, by_chance = config.model.scale, config.kernels == "chance"
    found = blind.photos(config, config.batch_size, scale=scale)
    side = max(_KERNEL_SIDE, 5 * scale + 1 + scale % 2)
    if not by_chance:
        plain = imaging.bicubic_kernel(scale)
        found = [
            dataclasses.replace(photo, kernel=plain, x_lr=data.degrade(photo.x_hr, plain, scale))
            for photo in found
        ]
    kernels = [imaging.fit_kernel(photo.kernel, side, scale=scale) for photo in found]
    images = [photo.x_lr.astype(np.float32) / 255 for photo in found]
    model = config.model.clone(dtype=jnp.dtype(config.compute_dtype))
    init, players = inference.zero_shot_training(
        model, policy=config.policy,
        optimizer=lambda: training.make_optimizer(config.optim, steps=config.steps),
    )  # fmt: skip
    sampler = data.FatherSampler(
        [[image] for image in images], side=config.side, views=data.Views(turns=not by_chance),
        own=inference.judged(images, kernels, config.noise),
    )  # fmt: skip
    manner = "kernel" if by_chance else "ideal"

    def enlarged(params: dict[str, Any], *, whole: bool) -> list[np.ndarray]:
        own = params[inference.UPSCALER]
        results = []
        for i, (image, kernel) in enumerate(zip(images, kernels, strict=True)):
            collections = {"params": jax.tree.map(lambda leaf, i=i: leaf[i], own)}
            results.append(
                inference.finish_zero_shot(image, kernel, model, collections, manner if whole else "kernel")
            )
        return results

    measure = functools.partial(metrics.psnr, protocol=metrics.SR_BENCHMARK(scale))

    def distances(params: dict[str, Any], *, whole: bool) -> dict[str, list[float]]:
        ours = enlarged(params, whole=whole)
        result: dict[str, list[float]] = {"psnr_y_db": [], "bicubic_psnr_y_db": [], "gain_db": []}
        for photo, image, mine in zip(found, images, ours, strict=True):
            truth = photo.x_hr.astype(np.float32)[None] / 255
            bicubic = np.clip(np.asarray(imaging.imresize(image, scale)), 0, 1)
            value, plain = (float(measure(truth, each[None])[0]) for each in (mine, bicubic))
            for name, number in zip(result, (value, plain, value - plain), strict=True):
                result[name].append(number)
        return result

    def evaluate(params: dict[str, Any], variables: Any) -> dict[str, float]:
        return {name: float(np.mean(values)) for name, values in distances(params, whole=False).items()}

    def evaluate_test(params: dict[str, Any], variables: Any) -> dict[str, float]:
        measured = distances(params, whole=True)
        for photo, ours, plain in zip(
            found, measured["psnr_y_db"], measured["bicubic_psnr_y_db"], strict=True
        ):
            print(f"{photo.name}: {ours:.2f} dB (bicubic enlargement: {plain:.2f})", flush=True)
        results: dict[str, float] = {}
        for name, values in measured.items():
            results |= blind.mean_and_error(values, name)
        return results

    def figures(params: dict[str, Any], variables: Any, directory: pathlib.Path, step: int) -> None:
        for photo, image, mine in zip(found, images, enlarged(params, whole=False), strict=True):
            bicubic = np.clip(np.asarray(imaging.imresize(image, scale)), 0, 1)
            strip = reports.comparison_strip(
                [("HR", photo.x_hr.astype(np.float32) / 255), ("bicubic", bicubic), ("ZSSR", mine)],
                protocol=metrics.SR_BENCHMARK(scale),
            )
            reports.save_image(
                directory / f"photo_{photo.name.replace('/', '_')}.png", strip,
                caption=f"{photo.name}: the network was trained on the small photo alone.",
            )  # fmt: skip

    return runs.Experiment(
        model=runs.describe_model(model),
        init=init,
        players=players,
        sampler=sampler,
        evaluate=evaluate,
        best_by=None,
        evaluate_test=evaluate_test,
        figures=figures,
        side_by_side="in_turn",
    )


if __name__ == "__main__":
    runs.main(PRESETS, build)
