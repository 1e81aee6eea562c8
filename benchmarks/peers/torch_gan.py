"""Training loops of SRGAN and ESRGAN in torch, as BasicSR's are."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.peers import torch_common, torch_sr
from experiments.recipes import adversarial
from vaesr import objectives


class GanTrainer(torch_common.Steps):
    """Generator, then discriminator, on one batch; the generator's result serves both.

    `trunk` is the content loss's network, frozen; `images` are `x_lr` and `x_hr`; `kind` is "srgan" or
    "esrgan"; both players have the learning rate.
    """

    def __init__(
        self, generator: Any, discriminator: Any, trunk: Any, images: Any, *, kind: str, learning_rate: float,
        how: torch_common.How,
    ) -> None:  # fmt: skip
        self.generator, self.discriminator, self.trunk = generator, discriminator, trunk
        self.x_lr, self.x_hr, self.kind, self.bfloat16 = *images, kind, how.bfloat16
        self.of_generator = torch_common.adam(generator.parameters(), learning_rate)
        self.of_discriminator = torch_common.adam(discriminator.parameters(), learning_rate)
        self.losses: tuple[Callable[..., Any], Callable[..., Any]] = (self._generator, self._discriminator)
        if how.compile_mode is not None:
            self.losses = tuple(torch.compile(f, mode=how.compile_mode) for f in self.losses)  # type: ignore[assignment]
        self.last: Any = None

    def _content(self, x_sr: Any) -> Any:
        found, targets = self.trunk(x_sr), self.trunk(self.x_hr).detach()
        if self.trunk.rectified:
            found, targets = torch.relu(found), torch.relu(targets)
        if self.kind == "srgan":
            return F.mse_loss(found.float(), targets.float()) / 12.75**2
        return F.l1_loss(found.float(), targets.float())

    def _generator(self) -> tuple[Any, Any]:
        bce = F.binary_cross_entropy_with_logits
        x_sr = self.generator(self.x_lr)
        fake = self.discriminator(x_sr).float()
        loss = self._content(x_sr)
        if self.kind == "srgan":
            return loss + 1e-3 * bce(fake, torch.ones_like(fake)), x_sr
        with torch.no_grad():
            real = self.discriminator(self.x_hr).float()
        both = bce(real - fake.mean(), torch.zeros_like(real)) + bce(
            fake - real.mean(), torch.ones_like(fake)
        )
        return loss + 5e-3 * both / 2 + 1e-2 * F.l1_loss(x_sr.float(), self.x_hr), x_sr

    def _discriminator(self, x_sr: Any) -> Any:
        bce = F.binary_cross_entropy_with_logits
        real, fake = self.discriminator(self.x_hr).float(), self.discriminator(x_sr).float()
        one, zero = torch.ones_like(real), torch.zeros_like(fake)
        if self.kind == "srgan":
            return bce(real, one) + bce(fake, zero)
        return (bce(real - fake.mean(), one) + bce(fake - real.mean(), zero)) / 2

    def step(self) -> Any:
        """Both players' move; the generator's loss, a tensor."""
        autocast = torch.autocast(torch_common.device().type, torch.bfloat16, enabled=self.bfloat16)
        self.discriminator.requires_grad_(False)
        self.of_generator.zero_grad(set_to_none=True)
        with autocast:
            loss, x_sr = self.losses[0]()
        loss.backward()
        self.of_generator.step()
        self.discriminator.requires_grad_(True)
        self.of_discriminator.zero_grad(set_to_none=True)
        with autocast:
            other = self.losses[1](x_sr.detach())
        other.backward()
        self.of_discriminator.step()
        self.last = loss.detach()
        return self.last

    def output(self) -> np.ndarray:
        """What the generator makes of the batch, `[B, H, W, 3]`; batch statistics stay."""
        with torch.no_grad():
            return torch_sr.upscaled(self.generator, self.x_lr)


def trainer(training: Any, how: torch_common.How, kind: str, layer: str) -> GanTrainer:
    """The loop of both players of "srgan" or "esrgan"; `layer` see `experiments.recipes.adversarial`."""
    config, state = training.config, training.state
    judge = state.params[adversarial.DISCRIMINATOR]
    if kind == "srgan":
        side = training.batch["x_hr"].shape[1]
        stages = sum(name.startswith("conv_") for name in judge) // 2
        discriminator = torch_sr.counterpart(config.discriminator, stages=stages, side=side)
    else:
        stages = sum(name.startswith("conv") and name.endswith("_1") for name in judge)
        discriminator = torch_sr.counterpart(config.discriminator, stages=stages)
    ours, _, _ = adversarial.load_features(config, layer)
    trunk: Any = torch_sr.VGG(ours.depths, ours.taps[-1].replace("relu", "conv"))
    trunk.rectified = ours.taps[-1].startswith("relu")
    trunk.requires_grad_(False)
    networks = [
        (torch_sr.counterpart(training.run.model), state.params[adversarial.GENERATOR]),
        (discriminator, judge),
        (trunk, state.variables[objectives.FEATURES]["params"]),
    ]
    placed = [
        torch_common.place(torch_sr.load(network, torch_common.host(tree)), how) for network, tree in networks
    ]
    images = [torch_common.images(training.batch[name], how) for name in ("x_lr", "x_hr")]
    return GanTrainer(*placed, images, kind=kind, learning_rate=config.gan.optim.lr, how=how)
