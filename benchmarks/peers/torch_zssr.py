"""ZSSR in torch in the form of the authors' code: image after image, one view a step."""

from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.peers import torch_common
from vaesr import inference
from vaesr.imaging import downsample, imresize

LAYOUTS = torch_common.IMAGE_LAYOUTS


def output(training: Any) -> Any:
    """What the networks make of the first views made small; see `benchmarks.peers`."""
    network, batch = training.run.model, training.batch
    small = downsample(batch["x_hr"][:, 0], batch["kernel"][:, 0], network.scale)
    params = training.state.params[inference.UPSCALER]
    return jax.vmap(lambda own, x: network.apply({"params": own}, x[None])[0])(params, small)


def trainer(training: Any, how: torch_common.How) -> "ZeroShotTrainer":
    """See `benchmarks.peers`."""
    return ZeroShotTrainer(training, how)


class _One:
    """The training of one image."""

    def __init__(self, training: Any, number: int, how: torch_common.How) -> None:
        params = jax.tree.map(lambda leaf: np.array(leaf[number]), training.state.params[inference.UPSCALER])
        layers: list[Any] = []
        for i in range(training.run.model.depth):
            kernel = params[f"convs_{i}"]["kernel"]
            conv = torch.nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1, bias=False)
            with torch.no_grad():
                conv.weight.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
            layers += [conv, torch.nn.ReLU()]
        self.network = torch_common.place(torch.nn.Sequential(*layers[:-1]), how)
        self.optimizer = torch_common.adam(self.network.parameters(), training.config.optim.lr)
        self.scale = training.run.model.scale
        self.view = torch_common.images(training.batch["x_hr"][number], how)
        kernel = np.array(training.batch["kernel"][number, 0])
        self.kernel = torch.from_numpy(kernel)[None, None].to(torch_common.device())
        side = self.view.shape[-1]
        # Mirrored borders, and the bicubic enlargement of one axis as a matrix.
        before, after = len(kernel) // 2, len(kernel) - 1 - len(kernel) // 2
        places = np.pad(np.arange(side), (before, after), mode="symmetric")
        self.places = torch.from_numpy(places).to(torch_common.device())
        small = -(-side // self.scale)
        matrix = np.asarray(imresize(np.eye(small, dtype=np.float32)[..., None], (self.scale, 1)))[..., 0]
        self.matrix = torch.from_numpy(matrix.copy()).to(torch_common.device())

    def enlarge(self) -> Any:
        padded = self.view.index_select(2, self.places).index_select(3, self.places)
        small = F.conv2d(padded.transpose(0, 1), self.kernel, stride=self.scale).transpose(0, 1).clamp(0, 1)
        large = self.matrix @ small @ self.matrix.T
        return large + self.network(large)

    def loss(self) -> Any:
        return F.l1_loss(self.enlarge().float(), self.view)


class ZeroShotTrainer(torch_common.Steps):
    """The trainings of a batch, one after the other."""

    def __init__(self, training: Any, how: torch_common.How) -> None:
        self.trainings = [_One(training, number, how) for number in range(len(training.batch["x_hr"]))]
        self.bfloat16 = how.bfloat16
        self.losses = [one.loss for one in self.trainings]
        if how.compile_mode is not None:
            self.losses = [torch.compile(loss, mode=how.compile_mode) for loss in self.losses]
        self.last: Any = None

    def step(self) -> Any:
        """A step of every training; their mean loss, a tensor."""
        total: Any = 0.0
        for one, loss_of in zip(self.trainings, self.losses, strict=True):
            one.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(torch_common.device().type, torch.bfloat16, enabled=self.bfloat16):
                loss = loss_of()
            loss.backward()
            one.optimizer.step()
            total = total + loss.detach()
        self.last = total / len(self.trainings)
        return self.last

    def output(self) -> np.ndarray:
        """What the networks make of the views made small, `[B, H, W, 3]`."""
        with torch.no_grad():
            made = torch.cat([one.enlarge() for one in self.trainings])
        return made.float().cpu().numpy().transpose(0, 2, 3, 1)
