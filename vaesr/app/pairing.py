"""Which image belongs to which: the files of two folders matched by name, and read to be compared."""

import dataclasses
import pathlib

import numpy as np

from vaesr.app.batch import UsageError, find_inputs
from vaesr.files.images import ImageFileError, read_photo


@dataclasses.dataclass(frozen=True)
class Matches:
    """What the names of two folders say.

    `pairs` are `(reference, image)` in the order of the references' names; the rest have no partner.
    """

    pairs: tuple[tuple[pathlib.Path, pathlib.Path], ...]
    without_image: tuple[pathlib.Path, ...]
    without_reference: tuple[pathlib.Path, ...]


def match_files(reference: str, image: str) -> Matches:
    """Matches the files of two patterns (a file, a folder or a glob) by their names.

    The same name without the extension, else one that begins with the reference's and goes on with a
    character that is no letter or digit, or with x and a digit: `baby.png` has `baby.jpg`, `baby_out.png` or
    `babyx4.png`. Of several references that fit the longest is taken. Two single files belong together
    whatever their names. A UsageError where nothing is found, or one reference has several images.
    """
    references, images = find_inputs(reference), find_inputs(image)
    if all(pathlib.Path(text).expanduser().is_file() for text in (reference, image)):
        return Matches(((references[0], images[0]),), (), ())
    stems = {path.stem.lower(): path for path in references}
    if len(stems) < len(references):
        twice = sorted({p.stem for p in references if stems[p.stem.lower()] != p})
        raise UsageError(f"--reference: several files are called {', '.join(twice[:3])}")
    found: dict[pathlib.Path, list[pathlib.Path]] = {}
    lost = []
    for path in images:
        stem = path.stem.lower()
        fitting = [
            name for name in stems if stem == name or (stem.startswith(name) and _ends(stem[len(name) :]))
        ]
        if fitting:
            found.setdefault(stems[max(fitting, key=len)], []).append(path)
        else:
            lost.append(path)
    for one, several in found.items():
        if len(several) > 1:
            names = ", ".join(p.name for p in several[:3])
            raise UsageError(f"--input: {names} all belong to {one.name}; give a pattern that picks one")
    pairs = tuple((path, found[path][0]) for path in references if path in found)
    return Matches(pairs, tuple(p for p in references if p not in found), tuple(lost))


def _ends(rest: str) -> bool:
    return not rest[0].isalnum() or (rest[0] == "x" and rest[1:2].isdigit())


def read_comparable(path: pathlib.Path) -> tuple[np.ndarray, list[str]]:
    """Reads an image as metrics take it: floats in [0, 1] `[H, W, 1 or 3]`, and remarks.

    Transparency is laid over white.
    """
    photo = read_photo(path)
    pixels, notes = photo.pixels, list(photo.notes)
    image = pixels.astype(np.float32) / (65535 if pixels.dtype == np.uint16 else 255)
    if pixels.dtype == np.uint16:
        notes.append("16 bits")
    if image.shape[2] in (2, 4):
        alpha = image[..., -1:]
        if (alpha < 1).any():
            notes.append("transparency over white")
        image = image[..., :-1] * alpha + (1 - alpha)
    return image, notes


def read_pair(reference: pathlib.Path, image: pathlib.Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Reads two images that are to be compared: floats in [0, 1] `[H, W, 1 or 3]` of one shape, and remarks.

    Grey beside colour becomes colour. An ImageFileError where one cannot be read, or their sizes differ.
    """
    found = []
    for path in (reference, image):
        try:
            found.append(read_comparable(path))
        except ImageFileError as error:
            raise ImageFileError(f"{path.name} {error}") from error
    (x, notes), (y, more) = found
    if x.shape[:2] != y.shape[:2]:
        raise ImageFileError(
            f"sizes differ: {reference.name} has {x.shape[1]}x{x.shape[0]}, {image.name} has "
            f"{y.shape[1]}x{y.shape[0]}"
        )
    if x.shape != y.shape:
        notes.append("grey beside colour")
        x, y = (np.repeat(i, 3, axis=2) if i.shape[2] == 1 else i for i in (x, y))
    return x, y, list(dict.fromkeys([*notes, *more]))
