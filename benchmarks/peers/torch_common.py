"""What the torch peers share: import, settings, the training loop. Torch is only ever imported lazily."""

import contextlib
import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from benchmarks.options import Options

ABSENT = "torch not installed"
IMAGE_LAYOUTS = ("contiguous", "channels_last")


@dataclasses.dataclass(frozen=True)
class How:
    """How a peer is to run: in one of `IMAGE_LAYOUTS`, under autocast to bfloat16 or not.

    `compile_mode` is None for eager, else given to `torch.compile` of forward and loss; `exact`, for
    comparison, is with the noise that our steps draw.
    """

    layout: str = "contiguous"
    bfloat16: bool = False
    compile_mode: str | None = None
    exact: bool = False

    @property
    def memory_format(self) -> Any:
        """Torch's name of the layout."""
        import torch

        return {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[self.layout]


def place(network: Any, how: How) -> Any:
    """A network on its device in the layout wanted."""
    return network.to(device(), memory_format=how.memory_format)


def images(array: Any, how: How) -> Any:
    """Our images `[B, H, W, C]` as torch has them: `[B, C, H, W]` on the device."""
    import torch

    tensor = torch.from_numpy(np.array(array).transpose(0, 3, 1, 2).copy()).to(device())
    return tensor.contiguous(memory_format=how.memory_format)


def host(tree: Any) -> Any:
    """A tree of our arrays as numpy's."""
    return jax.tree.map(np.asarray, tree)


def copy(layer: Any, kernel: Any, bias: Any, order: tuple[int, ...] = (3, 2, 0, 1)) -> None:
    """Our numbers into torch's layer; by default from height, width, in, out to out, in, height, width."""
    import torch

    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(np.transpose(kernel, order), order="C")))
        layer.bias.copy_(torch.from_numpy(np.array(bias)))


def available() -> bool:
    """Whether torch is installed."""
    return importlib.util.find_spec("torch") is not None


def peer_of(experiment: str, options: Options, case: timing.Case) -> ModuleType | None:
    """The peer's module of an experiment where it is asked for; where torch is absent the case says so."""
    name = f"benchmarks.peers.torch_{experiment}"
    if "torch" not in options.peers or importlib.util.find_spec(name) is None:
        return None
    if not available():
        case.absent.append(("torch", ABSENT))
        return None
    return importlib.import_module(name)


def load(threads: int | None = None) -> Any:
    """Import torch and set it up to be fast, with so many threads for one operation; None: its choice."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    return torch


def device() -> Any:
    """The device the peers run on: the GPU if torch sees one, else the CPU."""
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
    """Torch's fastest Adam, fused where this torch can, with the settings of `optax.adam`."""
    import torch

    parameters = list(parameters)
    try:
        return torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    except RuntimeError:
        return torch.optim.Adam(parameters, lr=learning_rate)


def modes(options: Options) -> list[tuple[str, str | None]]:
    """The ways of running torch that are worth a row: name, and mode for `torch.compile`, None for eager."""
    found: list[tuple[str, str | None]] = [("eager", None)]
    if options.torch_compile:
        found.append(("compile", "default"))
        if options.accelerator:
            found.append(("compile max-autotune", "max-autotune"))
    return found


class Sampler:
    """A loop that draws images.

    `draw` makes `[B, C, H, W]` of noise, or where it gets None of noise that it draws itself; `turn` brings
    noise of ours into the form that it takes.
    """

    def __init__(self, draw: Callable[[Any], Any], *, how: How, turn: Callable[[np.ndarray], Any]) -> None:
        import torch

        self.bfloat16, self.turn = how.bfloat16, turn
        self.draw = draw if how.compile_mode is None else torch.compile(draw, mode=how.compile_mode)
        self.last: Any = None

    def step(self, noise: Any = None) -> Any:
        """Draw a batch."""
        import torch

        with torch.inference_mode(), torch.autocast(device().type, torch.bfloat16, enabled=self.bfloat16):
            self.last = self.draw(noise)
        return self.last

    def of(self, noise: np.ndarray) -> np.ndarray:
        """The images `[B, H, W, C]` of our noise."""
        return self.step(self.turn(noise)).float().cpu().numpy().transpose(0, 2, 3, 1)

    def run(self, calls: int) -> None:
        """Draw `calls` batches and wait for the last."""
        for _ in range(calls):
            self.step()
        wait()

    def check(self) -> dict[str, bool]:
        """Whether the last images are finite."""
        import torch

        return {"images_finite": bool(torch.isfinite(self.last).all().item())}


def side(name: str, trainer: Any, images: int, work: float | None) -> timing.Side:
    """A torch loop as a side of a case; `images` and operations (`work`) are per step."""
    return timing.Side(name, "torch", trainer.run, images, work_per_step=work, check=trainer.check)


class Steps:
    """What is alike in all training loops: several steps, and a look at the last loss."""

    last: Any = None

    def step(self) -> Any:
        """Take one training step, and return the loss, a tensor, which is kept as `last`."""
        raise NotImplementedError

    def run(self, calls: int) -> None:
        """Take `calls` steps and wait for the last."""
        for _ in range(calls):
            self.step()
        wait()

    def check(self) -> dict[str, bool]:
        """Whether the last loss is finite."""
        import torch

        return {"loss_finite": bool(torch.isfinite(self.last).item())}


class Trainer(Steps):
    """A training loop: forward, backward, Adam.

    `model` is a module on its device, `loss(model)` a scalar tensor, `output(model)` an array in our layout,
    called without gradients; `ema_decay` is of a moving average of the parameters, None keeps none.
    """

    def __init__(
        self,
        model: Any,
        loss: Callable[[Any], Any],
        *,
        learning_rate: float,
        how: How,
        output: Callable[[Any], Any],
        ema_decay: float | None = None,
    ) -> None:
        import torch

        self.model, self.bfloat16, self._output = model, how.bfloat16, output
        self.optimizer = adam(model.parameters(), learning_rate)
        self.loss = loss
        self.last: Any = None
        if how.compile_mode is not None:
            self.loss = torch.compile(loss, mode=how.compile_mode)
        self.ema_decay = ema_decay
        self.average = [p.detach().clone() for p in model.parameters()] if ema_decay else []

    def step(self) -> Any:
        """Take one training step, and return the loss, a tensor."""
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device().type, torch.bfloat16, enabled=self.bfloat16):
            loss = self.loss(self.model)
        loss.backward()
        self.optimizer.step()
        if self.ema_decay:
            now = [parameter.detach() for parameter in self.model.parameters()]
            torch._foreach_lerp_(self.average, now, 1 - self.ema_decay)
        self.last = loss.detach()
        return self.last

    def output(self) -> np.ndarray:
        """What the network makes of the batch, in our layout."""
        import torch

        with torch.no_grad():
            return np.asarray(self._output(self.model))
