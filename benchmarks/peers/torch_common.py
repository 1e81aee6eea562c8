"""What the torch peers share: import, settings, the training loop. Torch is only ever imported lazily."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import timing
from benchmarks.options import Options

ABSENT = "torch not installed"


def available() -> bool:
    """Whether torch can be imported.

    Returns:
        True where torch is installed.
    """
    return importlib.util.find_spec("torch") is not None


def load(threads: int | None = None) -> Any:
    """Import torch and set it up to be fast.

    Args:
        threads: threads for one operation; None leaves torch's choice.

    Returns:
        The module.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    return torch


def device() -> Any:
    """The device the peers run on.

    Returns:
        The GPU if torch sees one, else the CPU.
    """
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Block until the device has done everything asked of it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """True float32 inside: no TF32, neither in convolutions nor in matrix products."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def adam(parameters: Any, learning_rate: float) -> Any:
    """Torch's fastest Adam, with the settings of `optax.adam`.

    Args:
        parameters: what to update.
        learning_rate: the step size.

    Returns:
        The optimizer: fused where this torch can, else its default.
    """
    import torch

    parameters = list(parameters)
    try:
        return torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    except RuntimeError:
        return torch.optim.Adam(parameters, lr=learning_rate)


def modes(options: Options) -> list[tuple[str, str | None]]:
    """The ways of running torch that are worth a row.

    Args:
        options: the run's settings.

    Returns:
        Names with the mode for `torch.compile`, None for eager.
    """
    found: list[tuple[str, str | None]] = [("eager", None)]
    if options.torch_compile:
        found.append(("compile", "default"))
        if options.accelerator:
            found.append(("compile max-autotune", "max-autotune"))
    return found


def side(name: str, trainer: "Trainer", images: int, work: float) -> timing.Side:
    """A torch training loop as a side of a case.

    Args:
        name: the side's name.
        trainer: the loop.
        images: examples per step.
        work: operations per step.

    Returns:
        The side.
    """
    return timing.Side(name, "torch", trainer.run, images, work_per_step=work, check=trainer.check)


class Trainer:
    """An eager training loop: forward, backward, Adam.

    Args:
        model: a module on its device.
        loss: `loss(model) -> scalar tensor`; draws its own batch.
        learning_rate: Adam's.
        bfloat16: compute under autocast.
        compile_mode: None for eager, else the mode given to `torch.compile` of forward and loss.
    """

    def __init__(
        self,
        model: Any,
        loss: Callable[[Any], Any],
        *,
        learning_rate: float,
        bfloat16: bool = False,
        compile_mode: str | None = None,
    ) -> None:
        import torch

        self.model, self.bfloat16 = model, bfloat16
        self.optimizer = adam(model.parameters(), learning_rate)
        self.loss = loss
        self.last: Any = None
        if compile_mode is not None:
            self.loss = torch.compile(loss, mode=compile_mode)

    def step(self) -> Any:
        """Take one training step.

        Returns:
            The loss, a tensor.
        """
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device().type, torch.bfloat16, enabled=self.bfloat16):
            loss = self.loss(self.model)
        loss.backward()
        self.optimizer.step()
        self.last = loss.detach()
        return self.last

    def run(self, calls: int) -> None:
        """Take `calls` steps and wait for the last.

        Args:
            calls: how many.
        """
        for _ in range(calls):
            self.step()
        wait()

    def check(self) -> dict[str, bool]:
        """Whether the last loss is finite.

        Returns:
            The fact for the row.
        """
        import torch

        return {"loss_finite": bool(torch.isfinite(self.last).item())}
