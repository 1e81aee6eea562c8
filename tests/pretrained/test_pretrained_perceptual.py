"""Trunks, LPIPS and DISTS against torch with one random set of weights."""

import numpy as np
import pytest

import vaesr.metrics as m
from vaesr import pretrained
from vaesr.app.cli import main

MEAN, DEVIATION = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def alexnet(torch):
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(),
    )  # fmt: skip


def vgg16(torch):
    layers, width = [], 3
    for entry in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"):
        if entry == "M":
            layers.append(torch.nn.MaxPool2d(2, 2))
        else:
            layers += [torch.nn.Conv2d(width, entry, 3, 1, 1), torch.nn.ReLU()]
            width = entry
    return torch.nn.Sequential(*layers)


def squeezenet(torch):
    nn = torch.nn

    class Fire(nn.Module):
        def __init__(self, width, squeezed, expanded):
            super().__init__()
            self.squeeze = nn.Conv2d(width, squeezed, 1)
            self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
            self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

        def forward(self, x):
            x = self.squeeze(x).relu()
            return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)

    pool = lambda: nn.MaxPool2d(3, 2, ceil_mode=True)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool(),
        Fire(64, 16, 64), Fire(128, 16, 64), pool(),
        Fire(128, 32, 128), Fire(256, 32, 128), pool(),
        Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
    )  # fmt: skip


# How to build the trunk, after which of its layers the features are taken, and their channels.
TRUNKS = {
    "lpips-alex": (alexnet, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256)),
    "lpips-vgg": (vgg16, (3, 8, 15, 22, 29), (64, 128, 256, 512, 512)),
    "lpips-squeeze": (squeezenet, (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512)),
}


def random_trunk(torch, build):
    torch.manual_seed(0)
    trunk = build(torch)
    for parameter in trunk.parameters():
        # Keeps the size of what flows through, so that every layer matters.
        spread = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
        torch.nn.init.normal_(parameter, std=spread)
    return trunk


def features(trunk, x, taps, pool=None):
    found = []
    for number, layer in enumerate(trunk):
        x = pool(x) if pool and "Pool" in type(layer).__name__ else layer(x)
        if number in taps:
            found.append(x)
    return found


def torch_lpips(trunk, heads, taps, x, y):
    sides = [features(trunk, image, taps) for image in (x, y)]
    unit = lambda f: f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10)
    return sum(
        (head * (unit(a) - unit(b)).square()).sum(1).mean((1, 2))
        for a, b, head in zip(*sides, heads, strict=True)
    )


def torch_dists(torch, trunk, alpha, beta, x, y):
    """As the paper's equations have it, with its pooling as one convolution by a Hanning window."""
    window = torch.from_numpy(np.outer(*[np.hanning(5)[1:-1]] * 2) / 4).float()

    def pool(f):
        kernel = window.expand(f.shape[1], 1, 3, 3)
        blurred = torch.nn.functional.conv2d(f.square(), kernel, stride=2, padding=1, groups=f.shape[1])
        return (blurred + 1e-12).sqrt()

    mean, deviation = (torch.from_numpy(v).float().reshape(1, 3, 1, 1) for v in IMAGENET)
    taps = TRUNKS["lpips-vgg"][1]
    sides = [[i, *features(trunk, (i - mean) / deviation, taps, pool)] for i in (x, y)]
    widths, total = [f.shape[1] for f in sides[0]], alpha.sum() + beta.sum()
    score = 1.0
    for a, b, wa, wb in zip(*sides, alpha.split(widths), beta.split(widths), strict=True):
        mu, nu = a.mean((2, 3)), b.mean((2, 3))
        variances = a.var((2, 3), correction=0) + b.var((2, 3), correction=0)
        covariance = (a * b).mean((2, 3)) - mu * nu
        texture = (2 * mu * nu + 1e-6) / (mu**2 + nu**2 + 1e-6)
        structure = (2 * covariance + 1e-6) / (variances + 1e-6)
        score = score - ((wa * texture + wb * structure) / total).sum(1)
    return score


def pair(size):
    rng = np.random.default_rng(3)
    x = rng.uniform(size=(2, *size, 3)).astype(np.float32)
    y = np.clip(x + rng.normal(size=x.shape) * 0.1, 0, 1).astype(np.float32)
    return x, y


def as_torch(torch, image):
    return torch.from_numpy(image.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("name", list(TRUNKS))
def test_lpips_is_torchs(name, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    build, taps, widths = TRUNKS[name]
    trunk, rng = random_trunk(torch, build), np.random.default_rng(1)
    heads = [torch.from_numpy(rng.uniform(0, 1, (1, w, 1, 1)).astype(np.float32)) for w in widths]
    state = {f"features.{key}": value for key, value in trunk.state_dict().items()}
    torch.save({**state, "classifier.1.weight": torch.zeros(3, 3)}, tmp_path / "trunk.pth")
    torch.save({f"lin{i}.model.1.weight": head for i, head in enumerate(heads)}, tmp_path / "heads.pth")
    output = tmp_path / "network.npz"
    arguments = ["--trunk", str(tmp_path / "trunk.pth"), "--heads", str(tmp_path / "heads.pth")]
    assert main(["convert", name, *arguments, "-o", str(output)]) == 0
    assert "trunk.pth: sha256 " in capsys.readouterr().out
    network = pretrained.load_lpips(output)
    with pytest.raises(ValueError, match="not DISTS"):
        pretrained.load_dists(output)
    # Odd sizes: pooling hangs over the edge in SqueezeNet only.
    for size in ((64, 64), (75, 83)):
        x, y = pair(size)
        scaled = [as_torch(torch, ((2 * i - 1 - MEAN) / DEVIATION).astype(np.float32)) for i in (x, y)]
        with torch.no_grad():
            expected = torch_lpips(trunk, heads, taps, *scaled).numpy()
        np.testing.assert_allclose(m.lpips(x, y, network=network), expected, rtol=2e-5)


def test_dists_is_torchs(tmp_path):
    torch = pytest.importorskip("torch")
    trunk, rng = random_trunk(torch, vgg16), np.random.default_rng(2)
    weights = [torch.from_numpy(rng.uniform(0, 1, 1475).astype(np.float32)) for _ in range(2)]
    torch.save({f"features.{k}": v for k, v in trunk.state_dict().items()}, tmp_path / "trunk.pth")
    shaped = {k: w.reshape(1, -1, 1, 1) for k, w in zip(("alpha", "beta"), weights, strict=True)}
    torch.save(shaped, tmp_path / "weights.pt")
    output = tmp_path / "dists.npz"
    arguments = ["--trunk", str(tmp_path / "trunk.pth"), "--heads", str(tmp_path / "weights.pt")]
    assert main(["convert", "dists", *arguments, "-o", str(output)]) == 0
    network = pretrained.load_dists(output)
    with pytest.raises(ValueError, match="not LPIPS"):
        pretrained.load_lpips(output)
    for size in ((64, 64), (51, 70)):
        x, y = pair(size)
        with torch.no_grad():
            expected = torch_dists(torch, trunk, *weights, as_torch(torch, x), as_torch(torch, y)).numpy()
        np.testing.assert_allclose(m.dists(x, y, network=network), expected, atol=2e-6)


def test_convert_says_what_is_wrong(tmp_path, capsys, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))
    torch.save({"features.0.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path / "one.pth")
    trunk = random_trunk(torch, squeezenet)
    torch.save({f"features.{k}": v for k, v in trunk.state_dict().items()}, tmp_path / "squeeze.pth")
    torch.save({f"lin{i}.model.1.weight": torch.zeros(1, 5, 1, 1) for i in range(7)}, tmp_path / "thin.pth")
    arguments = lambda trunk, heads: ["--trunk", str(tmp_path / trunk), "--heads", str(tmp_path / heads)]
    for given, words in (
        (["lpips-squeeze"], "squeezenet1_1-b8a52dc0.pth"),
        (["lpips-squeeze", *arguments("other.pth", "one.pth")], "other.pth lacks features.3"),
        (["lpips-squeeze", *arguments("squeeze.pth", "one.pth")], "lin0 to lin6"),
        (["lpips-squeeze", *arguments("squeeze.pth", "thin.pth")], "channels"),
        (["lpips-alex", *arguments("missing.pth", "one.pth")], "missing.pth"),
        (["dists", "-o", str(tmp_path / "x.npy")], ".npz"),
    ):
        assert main(["convert", *given]) == 2
        assert words in capsys.readouterr().err
    assert not list((tmp_path / "cache").rglob("*.npz"))
