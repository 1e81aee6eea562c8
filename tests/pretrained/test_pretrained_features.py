"""VGG for content losses: torchvision's layouts against torch with random weights, files, errors."""

import numpy as np
import pytest

from vaesr import pretrained
from vaesr.app.cli import main
from vaesr.imaging.colour import IMAGENET_DEVIATION, IMAGENET_MEAN
from vaesr.models.feature_networks import VGG
from vaesr.pretrained import find_features

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = {"vgg16": (2, 2, 3, 3, 3), "vgg16-bn": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def torchvision_features(torch, name):
    """torchvision's `features` with random weights that keep the size of what flows through."""
    torch.manual_seed(0)
    layers, width = [], 3
    for out, depth in zip(WIDTHS, DEPTHS[name], strict=True):
        for _ in range(depth):
            conv = torch.nn.Conv2d(width, out, 3, padding=1)
            torch.nn.init.normal_(conv.weight, std=(2 / (9 * width)) ** 0.5)
            layers.append(conv)
            if name == "vgg16-bn":
                norm = torch.nn.BatchNorm2d(out)
                norm.running_mean.normal_(std=0.1)
                norm.running_var.uniform_(0.5, 1.5)
                torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
                torch.nn.init.normal_(norm.bias, std=0.1)
                layers.append(norm)
            layers.append(torch.nn.ReLU())
            width = out
        layers.append(torch.nn.MaxPool2d(2, 2))
    return torch.nn.Sequential(*layers).eval()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", pretrained.FEATURES)
def test_features_equal_torch_through_torchvisions_file(name, tmp_path, cache, capsys):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    trunk = torchvision_features(torch, name)
    file = tmp_path / "weights.pth"
    torch.save({f"features.{key}": value for key, value in trunk.state_dict().items()}, file)
    assert main(["convert", name, "--trunk", str(file)]) == 0
    assert "weights.pth: sha256" in capsys.readouterr().out
    weights = find_features(name)
    assert weights.name == name
    assert weights.depths == DEPTHS[name]
    assert weights.layers[-2:] == (("conv5_4", "relu5_4") if name == "vgg19" else ("conv5_3", "relu5_3"))
    taps = ("relu1_2", "conv2_2", weights.layers[-2])
    model = VGG(weights.depths, taps, mean=IMAGENET_MEAN, deviation=IMAGENET_DEVIATION)
    image = np.random.default_rng(0).random((2, 33, 34, 3)).astype(np.float32)
    ours = model.apply(weights.variables, image)
    x = torch.from_numpy((image - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_DEVIATION))
    x, found, stage, index = x.permute(0, 3, 1, 2), {}, 1, 0
    for layer in trunk:
        x = layer(x)
        if isinstance(layer, torch.nn.MaxPool2d):
            stage, index = stage + 1, 0
        elif isinstance(layer, torch.nn.Conv2d):
            index += 1
        kind = "relu" if isinstance(layer, torch.nn.ReLU) else "conv"
        found[f"{kind}{stage}_{index}"] = x  # the batch norm's result takes the convolution's place
    for tap, mine in zip(taps, ours, strict=True):
        theirs = found[tap].detach().permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(mine, theirs, atol=2e-5 * float(np.abs(theirs).max()), err_msg=tap)


def test_fast_convolutions_give_the_same_features(cache):
    rng = np.random.default_rng(0)
    variables = {
        "params": {
            f"conv{s}_{i}": {
                "kernel": rng.normal(0, (2 / (9 * before)) ** 0.5, (3, 3, before, out)).astype(np.float32),
                "bias": np.zeros(out, np.float32),
            }
            for s, i, before, out in ((1, 1, 3, 64), (1, 2, 64, 64), (2, 1, 64, 128))
        }
    }
    model = VGG((2, 1), ("conv2_1",))
    image = rng.random((1, 20, 21, 3)).astype(np.float32)
    (exact,), (fast,) = (model.clone(conv_form=form).apply(variables, image) for form in ("direct", "auto"))
    np.testing.assert_allclose(fast, exact, atol=1e-4 * float(np.abs(exact).max()))


def test_another_networks_file_is_refused(tmp_path, cache):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for given, asked in (
        ("vgg16", "vgg19"),
        ("vgg19", "vgg16"),
        ("vgg16", "vgg16-bn"),
        ("vgg16-bn", "vgg16"),
    ):
        file = tmp_path / f"{given}.pth"
        state = torchvision_features(torch, given).state_dict()
        torch.save({f"features.{key}": value for key, value in state.items()}, file)
        with pytest.raises(ValueError, match="lacks"):
            pretrained.convert_features(asked, packages=tmp_path, trunk=file)


def test_what_is_missing_is_said(tmp_path, cache, capsys):
    with pytest.raises(FileNotFoundError, match=r"vaesr convert vgg19 --trunk vgg19-dcbb9e9d\.pth"):
        find_features("vgg19")
    with pytest.raises(FileNotFoundError, match="there are no features 'vgg11'"):
        find_features("vgg11")
    with pytest.raises(ValueError, match="name must be one of"):
        pretrained.convert_features("vgg11", packages=tmp_path)
    (tmp_path / "other.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"other\.npz"):
        find_features(str(tmp_path / "other.npz"))
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="holds no feature network"):
        find_features(str(tmp_path / "arrays.npz"))
    assert main(["convert", "vgg19"]) == 2
    assert "vgg19-dcbb9e9d.pth" in capsys.readouterr().err
    assert main(["convert", "vgg16", "--heads", "x.pth"]) == 2
    assert "--heads belongs to LPIPS" in capsys.readouterr().err
