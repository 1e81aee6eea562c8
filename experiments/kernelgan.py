"""KernelGAN (Bell-Kligler, Shocher and Irani 2019): the kernel that made a photo small, from itself alone.

    python -m experiments.kernelgan                          # 8 photos, 2 trainings each, kernels of chance
    python -m experiments.kernelgan --data folder:PHOTOS --batch-size 16 --seeds 4
    python -m experiments.kernelgan compat                   # as the authors' code, its channels mixed
    python -m experiments.kernelgan paper --data folder:DIV2K --batch-size 500   # 100 photos

A deep linear generator shrinks one image until a critic cannot tell its patches from the image's own. All
photos, and several trainings for each, are one program. Those of one photo vote.

Expected: 45 dB to the true kernels. Measured: 51.5 ± 1.0 dB (± standard error over 8 photos; the bicubic
kernel 32.4 ± 0.9); 107 s on one CPU core.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from experiments.recipes import blind
from vaesr import imaging, inference, metrics, reports, runs, training
from vaesr.data.self_patches import SelfPatchSampler
from vaesr.models.kernelgan import KernelDiscriminator, KernelGenerator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(blind.Config):
    """Kernels of photos."""

    # Trainings for each photo, which vote; there are --batch-size of them in all.
    seeds: int = 2
    # "compat": what the authors' code does, which compares each colour with the sum of all three; "fixed":
    # each with itself; "best": and the photo's spectrum says how wide the kernel is.
    mode: inference.KernelMode = "best"
    # Generator network.
    model: KernelGenerator = KernelGenerator()
    # Critic.
    discriminator: KernelDiscriminator = KernelDiscriminator()
    # Optimizer of both.
    optim: training.OptimConfig = training.OptimConfig(
        lr=2e-4, b1=0.5, schedule="step", step_every=750, step_factor=0.1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        runs.check_least(self, 1, "seeds")
        if self.batch_size % self.seeds:
            raise ValueError(f"--seeds {self.seeds} must divide --batch-size {self.batch_size}.")
        if self.model.stride != 2:
            raise ValueError(f"--model.stride must be 2, got {self.model.stride}.")
        if self.model.side % 4 != 1 or self.model.side > 25:
            raise ValueError(
                f"--model.sides must make a kernel of 5, 9, 13, ... or 25, got {self.model.side}."
            )


_DEFAULT = Config(
    data="embedded:photos", steps=1500, batch_size=16, eval_every=500, checkpoint_every=500, log_every=50,
    dtype="float32",
)  # fmt: skip
PRESETS = {
    "smoke": dataclasses.replace(
        _DEFAULT, steps=20, batch_size=4, eval_every=20, checkpoint_every=20, log_every=10, crop=160,
        model=KernelGenerator(channels=8), discriminator=KernelDiscriminator(channels=8, blocks=2),
    ),
    "default": _DEFAULT,
    "compat": dataclasses.replace(_DEFAULT, mode="compat", seeds=1, batch_size=8),
    "paper": dataclasses.replace(
        _DEFAULT, data="folder:DIV2K", mode="compat", seeds=5, batch_size=40, steps=3000, crop=2048
    ),
    "bench": dataclasses.replace(_DEFAULT, data="random:photos", seeds=2, crop=256),
}  # fmt: skip


def build(config: Config) -> runs.Experiment:
    """Wire photos, networks, losses and measurements."""
    count = config.batch_size // config.seeds
    found = blind.photos(config, count, scale=2)
    init, players = inference.kernel_training(
        config.model, config.discriminator, mode=config.mode,
        optimizer=lambda: training.make_optimizer(config.optim, steps=config.steps),
    )  # fmt: skip
    owners = np.repeat(np.arange(count), config.seeds)
    compose = jax.jit(jax.vmap(lambda params: config.model.apply({"params": params}, method="kernel")))

    def kernels(params: dict[str, Any]) -> list[inference.KernelEstimate]:
        raw = np.asarray(compose(params[inference.GENERATOR]), np.float64)
        raw = raw.reshape(count, config.seeds, *raw.shape[1:])
        return [
            inference.vote(each, mode=config.mode, image=photo.x_lr)
            for each, photo in zip(raw, found, strict=True)
        ]

    def distances(params: dict[str, Any]) -> dict[str, list[float]]:
        estimates = kernels(params)
        plain = imaging.bicubic_kernel(2)
        return {
            "kernel_psnr_db": [
                metrics.kernel_psnr(photo.kernel, each.kernel)
                for photo, each in zip(found, estimates, strict=True)
            ],
            "bicubic_kernel_psnr_db": [metrics.kernel_psnr(photo.kernel, plain) for photo in found],
        }

    def evaluate(params: dict[str, Any], variables: Any) -> dict[str, float]:
        return {name: float(np.mean(values)) for name, values in distances(params).items()}

    def evaluate_test(params: dict[str, Any], variables: Any) -> dict[str, float]:
        measured = distances(params)
        for photo, ours, plain in zip(found, *measured.values(), strict=True):
            print(f"{photo.name}: {ours:.1f} dB (the bicubic kernel: {plain:.1f})", flush=True)
        results: dict[str, float] = {}
        for name, values in measured.items():
            results |= blind.mean_and_error(values, name)
        return results

    def figures(params: dict[str, Any], variables: Any, directory: pathlib.Path, step: int) -> None:
        for photo, estimate in zip(found, kernels(params), strict=True):
            shown = [photo.kernel, estimate.kernel, *estimate.seeds, imaging.bicubic_kernel(2)]
            reports.save_image(
                directory / f"kernel_{photo.name.replace('/', '_')}.png", blind.kernel_strip(shown),
                caption=f"{photo.name}: the true kernel, ours, each training's, the bicubic one.",
            )  # fmt: skip

    return runs.Experiment(
        model=runs.describe_model(config.model),
        init=init,
        players=players,
        sampler=SelfPatchSampler([photo.x_lr for photo in found], owners),
        evaluate=evaluate,
        best_by=None,
        evaluate_test=evaluate_test,
        figures=figures,
        side_by_side="batched",
    )


if __name__ == "__main__":
    runs.main(PRESETS, build)
