"""The images and figures of the authors' own codes: see `iqa/official.json`."""

import functools
import hashlib
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parent / "iqa"
OFFICIAL = json.loads((FOLDER / "official.json").read_text())
NAMES = ("astronaut", "camera", "coffee")
DISTORTIONS = ("blur", "jpeg10", "noise15", "down4")
CROPS = {
    "astronaut": np.s_[0:256, 96:352],
    "camera": np.s_[64:320, 128:384],
    "coffee": np.s_[72:328, 172:428],
}


def official(name: str, distortion: str, metric: str) -> float:
    return OFFICIAL["values"][f"{name}/{distortion}"][metric]


@functools.cache
def pixels(name: str, distortion: str) -> np.ndarray:
    """uint8 `[256, 256]` or `[256, 256, 3]`; made here where that is exact, else from the file."""
    data = pytest.importorskip("skimage.data")
    crop = getattr(data, name)()[CROPS[name]]
    if distortion == "ref":
        found = crop
    elif distortion == "blur":
        ndimage = pytest.importorskip("scipy.ndimage")
        planes = np.atleast_3d(crop).astype(np.float64)
        soft = [ndimage.gaussian_filter(planes[..., c], 1.5) for c in range(planes.shape[2])]
        found = np.rint(np.stack(soft, -1)).clip(0, 255).astype(np.uint8).reshape(crop.shape)
    elif distortion == "noise15":
        noise = np.random.default_rng(0).normal(0, 15, crop.shape)
        found = np.rint(crop + noise).clip(0, 255).astype(np.uint8)
    else:
        found = np.asarray(pytest.importorskip("PIL.Image").open(FOLDER / f"{name}_{distortion}.png"))
    digest = hashlib.sha256(np.ascontiguousarray(found).tobytes()).hexdigest()
    assert digest == OFFICIAL["pixels_sha256"][f"{name}_{distortion}"], (name, distortion)
    return found


def image(name: str, distortion: str) -> jnp.ndarray:
    """`[1, 256, 256, C]` floats."""
    found = pixels(name, distortion)
    return jnp.asarray((found[..., None] if found.ndim == 2 else found) / 255.0, jnp.float32)[None]
