"""What the experiments of blind super-resolution share: photos degraded by kernels of chance."""

import dataclasses

import numpy as np

from vaesr import data, imaging, reports, runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Trainings side by side, each on one small photo."""

    # Longest side of the central crop of each photo that is made small.
    crop: int = 512
    # Seed of the kernels that photos are made small by.
    kernel_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        runs.check_least(self, 128, "crop")
        if self.accumulate > 1:
            raise ValueError("--accumulate splits batches, and every image is a training of its own here: 1.")


def photos(config: Config, count: int, *, scale: int) -> list[data.BlindPhoto]:
    """The photos that a configuration is on, degraded."""
    bank = data.open_bank(config.data, strict=config.strict)
    return data.blind_photos(bank, count, scale=scale, longest=config.crop, seed=config.kernel_seed)


def kernel_strip(kernels: list[np.ndarray], *, zoom: int = 6, side: int = 17) -> np.ndarray:
    """Kernels beside each other, each in grey up to its largest entry: uint8 `[H, W, 3]`."""
    shown = []
    for kernel in kernels:
        plane = imaging.fit_kernel(kernel, side)
        plane = np.clip(plane / plane.max(), 0, 1) ** 0.6
        large = np.kron(plane, np.ones((zoom, zoom)))
        shown.append(np.pad(large, 4, constant_values=1.0))
    strip = np.concatenate(shown, axis=1)
    return np.repeat(np.round(strip * 255).astype(np.uint8)[..., None], 3, axis=2)


def mean_and_error(values: list[float], name: str) -> dict[str, float]:
    """The mean over photos and its standard error."""
    found = np.asarray(values, np.float64)
    error = float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 0.0
    return {name: float(found.mean()), reports.error_name(name): error}
