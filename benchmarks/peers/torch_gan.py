"""Training loops of RCAN, RRDBNet, SRGAN and ESRGAN in torch, as BasicSR's are."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.peers import torch_common, torch_sr
from benchmarks.suites.ours import LEARNING_RATE


def _networks(models: Any) -> list[Any]:
    """Our modules' counterparts."""
    built = []
    for model in models:
        fields = {name: getattr(model, name) for name in model.__dataclass_fields__}
        kind = type(model).__name__
        if kind == "VGG":
            network: Any = torch_sr.VGG(model.depths, model.taps[-1].replace("relu", "conv"))
            network.rectified = model.taps[-1].startswith("relu")
            network.requires_grad_(False)
        else:
            names = {
                "RCAN": ("scale", "channels", "groups", "blocks", "reduction"),
                "SRResNet": ("scale", "channels", "blocks"),
                "RRDBNet": ("scale", "channels", "growth", "blocks"),
                "SRGANDiscriminator": ("channels", "hidden", "stages"),
                "VGGDiscriminator": ("channels", "hidden", "stages"),
            }[kind]
            extra = {"side": model.side} if kind == "SRGANDiscriminator" and hasattr(model, "side") else {}
            network = getattr(torch_sr, kind)(**{n: fields[n] for n in names}, **extra)
        built.append(network)
    return built


def _images(batch: dict[str, jax.Array], memory_format: Any) -> list[Any]:
    device = torch_common.device()
    arrays = [np.array(batch[k]).transpose(0, 3, 1, 2).copy() for k in ("x_lr", "x_hr")]
    return [torch.from_numpy(a).to(device).contiguous(memory_format=memory_format) for a in arrays]


class PixelTrainer(torch_common.Trainer):
    """L1 on one batch, as `torch_common.Trainer`, which also gives its first output."""

    def output(self) -> np.ndarray:
        """What the network makes of the batch.

        Returns:
            `[B, 3, H, W]`.
        """
        with torch.no_grad():
            return np.asarray(self.model(self.x_lr).cpu())

    x_lr: Any = None


def pixel_trainer(
    model: Any, params: Any, batch: dict[str, jax.Array], memory_format: Any, bfloat16: bool, mode: str | None
) -> PixelTrainer:
    """The loop of a network trained with L1.

    Args:
        model: our module.
        params: its parameters.
        batch: the batch.
        memory_format: torch's.
        bfloat16: compute under autocast.
        mode: of `torch.compile`, None for eager.

    Returns:
        The loop.
    """
    (network,) = _networks([model])
    torch_sr.load(network, jax.tree.map(np.asarray, params))
    network = network.to(torch_common.device(), memory_format=memory_format)
    x_lr, x_hr = _images(batch, memory_format)
    trainer = PixelTrainer(
        network, lambda net: 255.0 * F.l1_loss(net(x_lr).float(), x_hr), learning_rate=LEARNING_RATE,
        bfloat16=bfloat16, compile_mode=mode,
    )  # fmt: skip
    trainer.x_lr = x_lr
    return trainer


class GanTrainer:
    """Generator, then discriminator, on one batch; the generator's result serves both.

    Args:
        generator: the upscaler.
        discriminator: its judge.
        trunk: the content loss's network, frozen.
        images: `x_lr` and `x_hr`.
        kind: "srgan" or "esrgan".
        bfloat16: compute under autocast.
        mode: of `torch.compile`, None for eager.
    """

    def __init__(
        self, generator: Any, discriminator: Any, trunk: Any, images: Any, kind: str, bfloat16: bool,
        mode: str | None,
    ) -> None:  # fmt: skip
        self.generator, self.discriminator, self.trunk = generator, discriminator, trunk
        self.x_lr, self.x_hr, self.kind, self.bfloat16 = *images, kind, bfloat16
        self.of_generator = torch_common.adam(generator.parameters(), LEARNING_RATE)
        self.of_discriminator = torch_common.adam(discriminator.parameters(), LEARNING_RATE)
        self.losses: tuple[Callable[..., Any], Callable[..., Any]] = (self._generator, self._discriminator)
        if mode is not None:
            self.losses = tuple(torch.compile(f, mode=mode) for f in self.losses)  # type: ignore[assignment]
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
        """Both players' move.

        Returns:
            The generator's loss, a tensor.
        """
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
        """What the generator makes of the batch; batch statistics stay.

        Returns:
            `[B, 3, H, W]`.
        """
        with torch.no_grad():
            self.generator.eval()
            image = np.asarray(self.generator(self.x_lr).cpu())
            self.generator.train()
        return image

    def run(self, calls: int) -> None:
        """Take `calls` steps and wait for the last.

        Args:
            calls: how many.
        """
        for _ in range(calls):
            self.step()
        torch_common.wait()

    def check(self) -> dict[str, bool]:
        """Whether the last loss is finite.

        Returns:
            The fact for the row.
        """
        return {"loss_finite": bool(torch.isfinite(self.last).item())}


def gan_trainer(
    name: str, models: Any, params: Any, variables: Any, batch: dict[str, jax.Array], memory_format: Any,
    bfloat16: bool, mode: str | None,
) -> GanTrainer:  # fmt: skip
    """The loop of SRGAN or ESRGAN.

    Args:
        name: "srgan" or "esrgan".
        models: our generator, discriminator and feature network.
        params: of the two players.
        variables: with the feature network's.
        batch: the batch.
        memory_format: torch's.
        bfloat16: compute under autocast.
        mode: of `torch.compile`, None for eager.

    Returns:
        The loop.
    """
    side = batch["x_hr"].shape[1]
    built = []
    trees = (params["generator"], params["discriminator"], variables["features"]["params"])
    for model, tree in zip(models, trees, strict=True):
        if type(model).__name__ == "SRGANDiscriminator":
            network: Any = torch_sr.SRGANDiscriminator(model.channels, model.hidden, model.stages, side)
        else:
            (network,) = _networks([model])
        torch_sr.load(network, jax.tree.map(np.asarray, tree))
        built.append(network.to(torch_common.device(), memory_format=memory_format))
    return GanTrainer(*built, _images(batch, memory_format), name, bfloat16, mode)
