"""PixelSNAIL in torch: our own writing of the architecture, for comparison only."""

from typing import Any

import numpy as np

from benchmarks.peers import torch_common


def output(training: Any) -> Any:
    """See `benchmarks.peers`."""
    return training.run.apply(training.batch["codes"])


def trainer(training: Any, how: torch_common.How) -> torch_common.Trainer | None:
    """See `benchmarks.peers`; None for what `build` does not take."""
    import torch

    model = training.run.model
    if not getattr(model, "attention", False) or model.classes or model.condition or model.dropout:
        return None
    network = build(model)
    load(network, torch_common.host(training.state.params["prior"]))
    codes = torch.from_numpy(np.array(training.batch["codes"], np.int64)).to(torch_common.device())
    return torch_common.Trainer(
        torch_common.place(network, how), lambda net: torch.nn.functional.cross_entropy(net(codes), codes),
        how=how, learning_rate=training.config.prior.optim.lr, ema_decay=training.experiment.ema_decay,
        output=lambda net: net(codes).cpu().numpy().transpose(0, 2, 3, 1),
    )  # fmt: skip


def build(model: Any) -> Any:
    """Make the network, with random weights, that maps codes `[B, H, W]` to logits `[B, K, H, W]`.

    It takes the sizes of our `PixelSNAIL` without classes, maps above and dropout.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    height, width = model.shape
    channels, hidden, half = model.channels, model.hidden or model.channels, model.kernel // 2

    class Causal(nn.Module):
        """Rows above, and the own row up to the own column: one kernel with a masked last row."""

        def __init__(self, inputs: int, features: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(inputs, features, (half + 1, model.kernel))
            mask = torch.ones(1, 1, half + 1, model.kernel)
            mask[:, :, -1, half + 1 :] = 0
            self.register_buffer("mask", mask)

        def forward(self, x: Any) -> Any:
            x = F.pad(x, (half, half, half, 0))
            return F.conv2d(x, self.conv.weight * self.mask, self.conv.bias)

    class Gated(nn.Module):
        def __init__(self, pointwise: bool, aside: int = 0) -> None:
            super().__init__()
            conv = (lambda a, b: nn.Conv2d(a, b, 1)) if pointwise else Causal
            self.first, self.second = conv(channels, hidden), conv(hidden, 2 * channels)
            self.aside = nn.Conv2d(aside, hidden, 1) if aside else None

        def forward(self, x: Any, aside: Any = None) -> Any:
            y = self.first(F.elu(x))
            if self.aside is not None:
                y = y + self.aside(F.elu(aside))
            a, b = self.second(F.elu(y)).chunk(2, 1)
            return x + a * torch.sigmoid(b)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.res = nn.ModuleList(Gated(False) for _ in range(model.layers))
            self.context_in = nn.Conv2d(2 * channels + 2, channels, 1)
            self.context = Gated(True)
            self.query = nn.Conv2d(channels + 2, model.heads * model.key_size, 1)
            self.key = nn.Conv2d(channels, model.heads * model.key_size, 1)
            self.value = nn.Conv2d(channels, channels, 1)
            self.out = Gated(True, channels)

        def forward(self, x: Any, embedded: Any, place: Any, mask: Any) -> Any:
            for res in self.res:
                x = res(x)
            offered = torch.cat([x, place.expand(x.shape[0], -1, -1, -1).to(x.dtype)], 1)
            context = self.context(self.context_in(torch.cat([embedded, offered], 1)))
            split = lambda y: y.flatten(2).unflatten(1, (model.heads, -1)).transpose(2, 3)  # noqa: E731
            seen = F.scaled_dot_product_attention(
                split(self.query(offered)), split(self.key(context)), split(self.value(context)),
                attn_mask=mask,
            )  # fmt: skip
            # The first site has nothing before it: its row of the mask lets it see itself, and is put to 0.
            seen = torch.cat([torch.zeros_like(seen[:, :, :1]), seen[:, :, 1:]], 2)
            seen = seen.transpose(2, 3).reshape(x.shape[0], channels, height, width)
            return self.out(x, seen)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(model.codes, channels)
            self.down = nn.Conv2d(channels, channels, (half + 1, model.kernel))
            self.right = nn.Conv2d(channels, channels, (1, half + 1))
            self.blocks = nn.ModuleList(Block() for _ in range(model.blocks))
            self.out = nn.Conv2d(channels, model.codes, 1)
            rows, columns = torch.meshgrid(
                torch.arange(height) / height - 0.5, torch.arange(width) / width - 0.5, indexing="ij"
            )
            self.register_buffer("place", torch.stack([rows, columns])[None])
            mask = torch.ones(height * width, height * width, dtype=torch.bool).tril(-1)
            mask[0, 0] = True
            self.register_buffer("mask", mask)

        def forward(self, codes: Any) -> Any:
            embedded = self.embed(codes).permute(0, 3, 1, 2)
            below = F.pad(embedded, (half, half, half + 1, 0))[:, :, :-1]
            beside = F.pad(embedded, (half + 1, 0, 0, 0))[:, :, :, :-1]
            x = self.down(below) + self.right(beside)
            for block in self.blocks:
                x = block(x, embedded, self.place, self.mask)
            return self.out(F.elu(x)).float()

    return Network()


def load(network: Any, params: dict[str, Any]) -> None:
    """Copy the parameters of our `PixelSNAIL` into a network of `build`, of the same sizes."""
    import torch

    with torch.no_grad():
        network.embed.weight.copy_(torch.from_numpy(np.array(params["embed"]["embedding"])))
    for name in ("down", "right"):
        own = params["first"][name]
        torch_common.copy(getattr(network, name), own[name], own["bias"])
    _copy_dense(network.out, params["out"])
    for n, block in enumerate(network.blocks):
        own = params[f"stack_{n}"]
        for i, res in enumerate(block.res):
            for name in ("first", "second"):
                layer = own[f"res_{i}"][name]
                right = np.pad(layer["right"], ((0, 0), (0, layer["right"].shape[1] - 1), (0, 0), (0, 0)))
                torch_common.copy(
                    getattr(res, name).conv, np.concatenate([layer["above"], right]), layer["bias"]
                )
        _copy_dense(block.context_in, own["context_in"])
        for name in ("query", "key", "value"):
            layer = own["attention"][name]
            inputs = layer["kernel"].shape[0]
            flat = {"kernel": np.reshape(layer["kernel"], (inputs, -1)), "bias": np.ravel(layer["bias"])}
            _copy_dense(getattr(block, name), flat)
        for name, module in (("context", block.context), ("out", block.out)):
            _copy_dense(module.first, own[name]["first"])
            _copy_dense(module.second, own[name]["second"])
        _copy_dense(block.out.aside, own["out"]["aside"])


def _copy_dense(conv: Any, layer: dict[str, Any]) -> None:
    torch_common.copy(conv, np.array(layer["kernel"])[None, None], layer["bias"])
