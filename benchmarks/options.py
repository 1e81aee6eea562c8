"""What the suites are told."""

import dataclasses

from benchmarks import timing


@dataclasses.dataclass(frozen=True)
class Options:
    """One run's settings.

    Attributes:
        suites: names of the suites.
        models: what the suites that have names for it measure; empty for all that suits the device.
        peers: frameworks to compare with ("torch"; "piq" and scikit-image for metrics; "ncnn" for tiles).
        sizes: `(height, width)` of the photos of the `tiles` suite; empty for its own.
        tiles: what the `tiles` suite cuts photos into: "whole", "auto" (the command's choice), or pixels.
        smoke: tiny sizes, seconds in all.
        torch_compile: measure `torch.compile` too; compiling takes long.
        plan: how long to measure.
        once: one sample of each side where a call takes minutes, which only the suite `tiles` has.
        accelerator: whether JAX's device is not a CPU.
        clock: "cpu" or "wall".
        threads: threads for the peers; None for their own choice.
    """

    suites: tuple[str, ...] = ("train", "input")
    models: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    tiles: tuple[str, ...] = ("whole", "128", "512", "auto")
    smoke: bool = False
    torch_compile: bool = False
    plan: timing.Plan = dataclasses.field(default_factory=timing.Plan)
    once: bool = False
    accelerator: bool = False
    clock: str = "wall"
    threads: int | None = None

    def wants(self, model: str) -> bool:
        """Whether a model was asked for, or nothing in particular was."""
        return not self.models or model in self.models
