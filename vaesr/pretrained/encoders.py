"""ResNet's convolutions from torchvision's files, as the encoders of U-Nets."""

import pathlib
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from vaesr.files.digests import digest
from vaesr.models.resnet import ResNetBody
from vaesr.pretrained.foreign import read_state

_PARTS = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def read_resnet(path: str | pathlib.Path, body: ResNetBody) -> tuple[dict[str, Any], str]:
    """Reads a ResNet's convolutions and batch norms from torchvision's file, such as `resnet34-b627a593.pth`.

    The body's variables, `{"params": ..., "batch_stats": ...}`, and the file's sha256. ValueError if the file
    is of another network, OSError if it cannot be read.
    """
    path = pathlib.Path(path).expanduser()
    state = read_state(path)
    shapes = jax.eval_shape(lambda: body.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    flat = flax.traverse_util.flatten_dict(shapes)
    found, used = {}, set()
    for place, leaf in flat.items():
        key = _torchvision_key(place)
        array = state.get(key)
        if array is not None and array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        if array is None or array.shape != leaf.shape:
            got = "lacks it" if array is None else f"has {array.shape}"
            raise ValueError(
                f"{path} is not the network that is needed: it wants {key} {leaf.shape}, the file {got}."
            )
        found[place] = np.ascontiguousarray(array, np.float32)
        used.add(key)
    left = [k for k in state if k not in used and not k.startswith("fc.") and "num_batches" not in k]
    if left:
        raise ValueError(
            f"{path} is not the network that is needed: it has {left[0]} and {len(left) - 1} more."
        )
    return flax.traverse_util.unflatten_dict(found), digest(path)


def _torchvision_key(place: tuple[str, ...]) -> str:
    """Where torchvision keeps what is at a place of ours, such as params/layer1_0/bn_skip/norm/scale."""
    _, *modules, leaf = place
    block, layer = (modules[0], modules[1]) if modules[0].startswith("layer") else ("", modules[0])
    prefix = f"{block.replace('_', '.')}." if block else ""
    names = {"conv_skip": "downsample.0", "bn_skip": "downsample.1"}
    part = "weight" if leaf == "kernel" else _PARTS[leaf]
    return f"{prefix}{names.get(layer, layer)}.{part}"
