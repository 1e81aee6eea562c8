"""VQ-VAE and VQ-VAE-2 in torch: our own writing of the architecture, for comparison only."""

import itertools
from typing import Any

import numpy as np

from benchmarks.peers import torch_common
from experiments.recipes.codes import data_variance

LAYOUTS = torch_common.IMAGE_LAYOUTS


def output(training: Any) -> Any:
    """See `benchmarks.peers`."""
    return training.run.apply(training.batch["image"]).reconstruction


def trainer(training: Any, how: torch_common.How) -> torch_common.Trainer | None:
    """The autoencoder's; see `benchmarks.peers`."""
    if training.folder:
        return None
    network = build(training.run.model)
    load(
        network,
        *torch_common.host((training.run.collections["params"], training.run.collections["codebook"])),
    )
    images = torch_common.images(training.batch["image"], how)
    variance = data_variance(training.experiment.sampler.bank)

    def reconstruction(net: Any) -> np.ndarray:
        found = net.eval()(images)[0].cpu().numpy().transpose(0, 2, 3, 1)
        net.train()
        return found

    return torch_common.Trainer(
        torch_common.place(network, how), lambda net: loss(net, images, variance), how=how,
        learning_rate=training.config.optim.lr, output=reconstruction,
    )  # fmt: skip


def build(model: Any) -> Any:
    """Make the network, with random weights, of the sizes of our `VQVAE` with quantiser "vector".

    It maps `[B, C, H, W]` in [0, 1] to the reconstruction and the commitment loss; in training mode it
    updates its codebooks.
    """
    import torch
    from torch import nn

    width, hidden, dim = model.channels, model.res_channels, model.code_dim
    halvings = model.factor.bit_length() - 1

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleList(
                nn.Conv2d(width, hidden, 3, padding=1) for _ in range(model.res_blocks)
            )
            self.outer = nn.ModuleList(nn.Conv2d(hidden, width, 1) for _ in range(model.res_blocks))

        def forward(self, x: Any) -> Any:
            for inner, outer in zip(self.inner, self.outer, strict=True):
                x = x + outer(torch.relu(inner(torch.relu(x))))
            return torch.relu(x)

    class Encoder(nn.Module):
        def __init__(self, channels: int, count: int) -> None:
            super().__init__()
            sizes = [channels, width // 2, *[width] * (count - 1)]
            self.downs = nn.ModuleList(
                nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise(sizes)
            )
            self.conv, self.stack = nn.Conv2d(sizes[-1], width, 3, padding=1), Stack()

        def forward(self, x: Any) -> Any:
            for down in self.downs:
                x = torch.relu(down(x))
            return self.stack(self.conv(x))

    class Decoder(nn.Module):
        def __init__(self, channels: int, features: int, count: int) -> None:
            super().__init__()
            self.conv, self.stack = nn.Conv2d(channels, width, 3, padding=1), Stack()
            sizes = [width, *[width // 2] * (count - 1), features]
            self.ups = nn.ModuleList(
                nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise(sizes)
            )

        def forward(self, x: Any) -> Any:
            x = self.stack(self.conv(x))
            for up in self.ups[:-1]:
                x = torch.relu(up(x))
            return self.ups[-1](x)

    class Quantiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", torch.zeros(model.codes, dim))
            self.register_buffer("counts", torch.zeros(model.codes))
            self.register_buffer("sums", torch.zeros(model.codes, dim))
            self.register_buffer("weight", torch.zeros(()))

        def forward(self, z: Any) -> tuple[Any, Any]:
            z = z.float()
            flat = z.permute(0, 2, 3, 1).reshape(-1, dim)
            with torch.no_grad():
                scores = 0.5 * self.codes.square().sum(1) - flat @ self.codes.T
                chosen = scores.argmin(1)
            found = torch.nn.functional.embedding(chosen, self.codes)
            if self.training:
                self._learn(flat.detach(), chosen)
            values = found.view(z.shape[0], *z.shape[2:], dim).permute(0, 3, 1, 2)
            commitment = (z - values).square().mean()
            return z + (values - z).detach(), commitment

        @torch.no_grad()
        def _learn(self, flat: Any, chosen: Any) -> None:
            one_hot = torch.nn.functional.one_hot(chosen, model.codes).to(flat.dtype)
            self.counts.mul_(model.decay).add_(one_hot.sum(0), alpha=1 - model.decay)
            self.sums.mul_(model.decay).add_(one_hot.T @ flat, alpha=1 - model.decay)
            self.weight.mul_(model.decay).add_(1 - model.decay)
            average = self.counts / self.weight
            total = average.sum()
            smoothed = (average + 1e-5) / (total + model.codes * 1e-5) * total
            new = self.sums / self.weight / smoothed[:, None]
            self.codes.copy_(torch.where(average[:, None] > 0, new, self.codes))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            channels, levels = model.image_shape[2], model.levels
            self.encoders = nn.ModuleList(
                Encoder(channels if n == 0 else width, halvings if n == 0 else 1) for n in range(levels)
            )
            self.projections = nn.ModuleList(
                nn.Conv2d(width + (dim if n else 0), dim, 1) for n in range(levels)
            )
            self.quantisers = nn.ModuleList(Quantiser() for _ in range(levels))
            self.between = nn.ModuleList(Decoder(dim * (n + 1), dim, 1) for n in range(levels - 1))
            self.upsamplers = nn.ModuleList(
                nn.ConvTranspose2d(dim * (n + 1), dim * (n + 1), 4, stride=2, padding=1)
                for n in range(levels - 1)
            )
            self.decoder = Decoder(dim * levels, channels, halvings)

        def forward(self, images: Any) -> tuple[Any, Any]:
            x, features = 2.0 * images - 1.0, []
            for encoder in self.encoders:
                x = encoder(x)
                features.append(x)
            joined, commitment = None, 0.0
            for n, own in enumerate(reversed(features)):
                if joined is not None:
                    own = torch.cat([self.between[n - 1](joined), own], 1)
                values, cost = self.quantisers[n](self.projections[n](own))
                commitment = commitment + cost
                if joined is not None:
                    values = torch.cat([self.upsamplers[n - 1](joined), values.to(joined.dtype)], 1)
                joined = values
            return 0.5 * self.decoder(joined).float() + 0.5, commitment

    return Network()


def loss(network: Any, images: Any, data_variance: float) -> Any:
    """Squared error in units of the data's variance, and a quarter of the commitment; of `[B, C, H, W]`."""
    reconstruction, commitment = network(images)
    return (reconstruction - images).square().mean() / data_variance + 0.25 * commitment


def load(network: Any, params: dict[str, Any], codebook: dict[str, Any]) -> None:
    """Copy our `VQVAE`'s parameters and "codebook" into a network of `build`, of the same sizes."""
    import torch

    for n, encoder in enumerate(network.encoders):
        own = params[f"encoders_{n}"]
        for i, down in enumerate(encoder.downs):
            _copy(down, own[f"DownConv_{i}"])
        _copy(encoder.conv, own["Conv_0"])
        _copy_stack(encoder.stack, own["ResidualStack_0"])
    for n, projection in enumerate(network.projections):
        _copy(projection, params[f"projections_{n}"])
    decoders = [(d, params[f"between_{n}"]) for n, d in enumerate(network.between)]
    for decoder, own in [*decoders, (network.decoder, params["decoder"])]:
        _copy(decoder.conv, own["Conv_0"])
        _copy_stack(decoder.stack, own["ResidualStack_0"])
        for i, up in enumerate(decoder.ups):
            _copy(up, own[f"ConvTranspose_{i}"], transposed=True)
    for n, up in enumerate(network.upsamplers):
        _copy(up, params[f"upsamplers_{n}"], transposed=True)
    for n, quantiser in enumerate(network.quantisers):
        quantiser.codes.copy_(torch.from_numpy(np.array(codebook[f"quantisers_{n}"]["codes"])))


def _copy_stack(stack: Any, params: dict[str, Any]) -> None:
    for i, (inner, outer) in enumerate(zip(stack.inner, stack.outer, strict=True)):
        _copy(inner, params[f"Conv_{2 * i}"])
        _copy(outer, params[f"Conv_{2 * i + 1}"])


def _copy(conv: Any, params: dict[str, Any], *, transposed: bool = False) -> None:
    order = (2, 3, 0, 1) if transposed else (3, 2, 0, 1)
    torch_common.copy(conv, params["kernel"], params["bias"], order)
