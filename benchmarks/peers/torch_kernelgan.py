"""KernelGAN in torch in the form of the authors' code: image after image, the generator layer by layer."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.peers import torch_common
from benchmarks.steps import PARITY_STEPS
from vaesr import inference, objectives
from vaesr.distributions import example_keys, example_normal
from vaesr.imaging import imresize
from vaesr.losses.kernel_priors import boundary_mask

LAYOUTS = ("contiguous",)
Noise = tuple[Any, Any]


def output(training: Any) -> Any:
    """The first step's shrunk crops; see `benchmarks.peers`."""
    network, params = training.config.model, training.state.params[inference.GENERATOR]
    return jax.vmap(lambda own, crop: network.apply({"params": own}, crop))(params, training.batch["x_g"])[
        :, 0
    ]


def trainer(training: Any, how: torch_common.How) -> "KernelTrainer":
    """See `benchmarks.peers`."""
    return KernelTrainer(training, how)


class _One:
    """The training of one image."""

    def __init__(self, training: Any, number: int) -> None:
        config, state = training.config, training.state
        own = jax.tree.map(lambda leaf: np.array(leaf[number]), (state.params, state.variables))
        params, variables = own
        self.sides, self.stride = config.model.sides, config.model.stride
        device = torch_common.device()
        kernels = [params[inference.GENERATOR][f"kernel_{i}"] for i in range(len(self.sides))]
        self.generator = [
            torch.nn.Parameter(torch.from_numpy(np.ascontiguousarray(k.transpose(3, 2, 0, 1))).to(device))
            for k in kernels
        ]
        theirs, vectors = params[inference.DISCRIMINATOR], variables[inference.DISCRIMINATOR]["spectral"]
        side, colours = config.discriminator.side, training.batch["x_d"].shape[-1]
        names = ["first", *(f"block_{i}" for i in range(config.discriminator.blocks)), "last"]
        layers: list[Any] = []
        for name in names:
            matrix = theirs[f"{name}_kernel"]
            shape = (side, side, colours) if name == "first" else (1, 1, len(matrix))
            conv = torch.nn.Conv2d(shape[2], matrix.shape[1], shape[0])
            torch_common.copy(conv, matrix.reshape(*shape, -1), theirs[f"{name}_bias"])
            conv = torch.nn.utils.spectral_norm(conv)
            conv.weight_u.copy_(torch.from_numpy(vectors[f"{name}_spectral"]["u"]))
            layers.append(conv)
            if name.startswith("block"):
                norm = torch.nn.BatchNorm2d(matrix.shape[1])
                with torch.no_grad():
                    norm.weight.copy_(torch.from_numpy(theirs[f"{name}_scale"]))
                    norm.bias.copy_(torch.from_numpy(theirs[f"{name}_shift"]))
                layers += [norm, torch.nn.ReLU()]
        self.discriminator = torch.nn.Sequential(*layers, torch.nn.Sigmoid()).to(device)
        rate = {"lr": config.optim.lr, "betas": (config.optim.b1, config.optim.b2)}
        self.of_generator = torch.optim.Adam(self.generator, **rate)
        self.of_discriminator = torch.optim.Adam(self.discriminator.parameters(), **rate)
        crops = [np.array(training.batch[name][number]).transpose(0, 3, 1, 2) for name in ("x_g", "x_d")]
        self.large, self.small = (torch.from_numpy(2 * crop - 1).to(device) for crop in crops)
        target = np.asarray(imresize(2 * training.batch["x_g"][number] - 1, 1 / self.stride))
        shaved = (target.shape[1] - self.small.shape[-1]) // 2
        target = target[:, shaved : target.shape[1] - shaved, shaved : target.shape[2] - shaved]
        if config.mode == "compat":
            target = np.broadcast_to(target.sum(-1, keepdims=True), target.shape)
        self.target = torch.from_numpy(target.transpose(0, 3, 1, 2).copy()).to(device)
        reach = config.model.side
        self.delta = torch.ones(1, 1, 1, 1, device=device)
        self.mask = torch.from_numpy(boundary_mask(reach)).to(device)
        self.places = torch.arange(reach, dtype=torch.float32, device=device)
        self.wanted = reach // 2 + (self.stride - reach % 2) / 2
        schedule = variables[objectives.SCHEDULE]
        self.bicubic, self.late = float(schedule["bicubic"]), bool(schedule["sparse"])

    def shrink(self) -> Any:
        """What the generator makes of its crop; colours are a batch of grey images."""
        y = self.large.transpose(0, 1)
        for i, kernel in enumerate(self.generator):
            y = F.conv2d(y, kernel, stride=self.stride if i == len(self.generator) - 1 else 1)
        return y.transpose(0, 1)

    def kernel(self) -> Any:
        """All layers as one kernel, by what they make of an impulse."""
        k = self.delta
        for i, kernel in enumerate(self.generator):
            k = F.conv2d(k, kernel, padding=len(self.places) - 1 if i == 0 else 0)
        return k[0, 0].flip((0, 1))

    def generator_loss(self) -> Any:
        shrunk, k = self.shrink(), self.kernel()
        score = self.discriminator(shrunk)
        total = k.sum()
        row, column = (k.sum(1) * self.places).sum() / total, (k.sum(0) * self.places).sum() / total
        centre = ((row - self.wanted) ** 2 + (column - self.wanted) ** 2) / 2
        sparsity = k.abs().clamp_min(1e-30).pow(0.2).mean()
        late = centre + 5 * sparsity if self.late else 0 * (centre + sparsity)
        return (
            F.l1_loss(score, torch.ones_like(score))
            + self.bicubic * F.mse_loss(shrunk, self.target)
            + 0.5 * (1 - total).abs()
            + 0.5 * (k * self.mask).abs().mean()
            + late
        )

    def discriminator_loss(self, noise: Noise) -> Any:
        real = self.discriminator(self.small + 2 / 255 * noise[0])
        with torch.no_grad():
            fake = self.shrink()
        fake = self.discriminator(fake + 1 / 255 * noise[1])
        return (F.l1_loss(real, torch.ones_like(real)) + F.l1_loss(fake, torch.zeros_like(fake))) / 2


class KernelTrainer(torch_common.Steps):
    """The trainings of a batch, one after the other."""

    def __init__(self, training: Any, how: torch_common.How) -> None:
        count = len(training.batch["x_g"])
        self.trainings = [_One(training, number) for number in range(count)]
        self.bfloat16 = how.bfloat16
        self.feed: Iterator[list[Noise]] | None = None
        if how.exact:
            self.feed = iter([_noise(training, step) for step in range(PARITY_STEPS)])
        self.losses = [(one.generator_loss, one.discriminator_loss) for one in self.trainings]
        if how.compile_mode is not None:
            self.losses = [
                tuple(torch.compile(f, mode=how.compile_mode) for f in pair) for pair in self.losses
            ]  # type: ignore[misc]
        self.last: Any = None

    def step(self) -> Any:
        """A step of every training; the generators' mean loss, a tensor."""
        total: Any = 0.0
        noises = next(self.feed) if self.feed is not None else None
        autocast = torch.autocast(torch_common.device().type, torch.bfloat16, enabled=self.bfloat16)
        for number, (one, (of_generator, of_discriminator)) in enumerate(
            zip(self.trainings, self.losses, strict=True)
        ):
            one.of_generator.zero_grad(set_to_none=True)
            with autocast:
                loss = of_generator()
            loss.backward()
            one.of_generator.step()
            one.of_discriminator.zero_grad(set_to_none=True)
            if noises is None:
                noise = torch.randn_like(one.small), torch.randn_like(one.small)
            else:
                noise = noises[number]
            with autocast:
                other = of_discriminator(noise)
            other.backward()
            one.of_discriminator.step()
            total = total + loss.detach()
        self.last = total / len(self.trainings)
        return self.last

    def output(self) -> np.ndarray:
        """The shrunk crops, `[B, h, w, C]` in [0, 1]."""
        with torch.no_grad():
            made = torch.cat([one.shrink() for one in self.trainings])
        return ((made + 1) / 2).cpu().numpy().transpose(0, 2, 3, 1)


def _noise(training: Any, step: int) -> list[Noise]:
    """What the discriminators' step of ours draws, of every training."""
    found = []
    shape = training.batch["x_d"].shape[2:]
    for place in range(len(training.batch["x_d"])):
        own = jax.random.fold_in(training.state.key, place)
        key = jax.random.fold_in(jax.random.fold_in(own, step), 1)  # the second player's
        drawn = [
            np.array(example_normal(example_keys(one, np.zeros(1, np.int32)), shape)).transpose(0, 3, 1, 2)
            for one in jax.random.split(key)
        ]
        real, fake = (torch.from_numpy(each.copy()).to(torch_common.device()) for each in drawn)
        found.append((real, fake))
    return found
