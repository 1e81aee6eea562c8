"""`embedded:NAME` and `tfds:NAME[:CONFIG]`: sets prepared as ArrayRecord and read with `tfds.data_source`."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import json
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from vaesr.data.embedded import EMBEDDED, builder_class, embedded_key
from vaesr.data.source import Source
from vaesr.data.splits import split_name
from vaesr.data.writer import BankWriter


def _require_tfds(spec: str) -> Any:
    try:
        import array_record  # noqa: F401
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"data source {spec!r} needs tensorflow-datasets and array_record: "
            f'pip install "vaesr[experiments]" ({error})'
        ) from error
    return tfds


@contextlib.contextmanager
def _quiet(tfds: Any) -> Iterator[None]:
    """TFDS without its bars and advice: the user asked for data, not for a build log."""
    absl = logging.getLogger("absl")
    level = absl.level
    bars = getattr(tfds.core.utils.tqdm_utils, "_active", True)  # it has no public question for this
    absl.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl.setLevel(level)
        if bars:
            tfds.enable_progress_bar()


def find_embedded(spec: str, name: str, root: pathlib.Path) -> Source:
    """Find a set that ships inside a package; prepare it as ArrayRecord under `root/tfds` when it is written.

    `name` is a key of `EMBEDDED`; an ImportError if the package is missing.
    """
    if name not in EMBEDDED:
        close = difflib.get_close_matches(name, EMBEDDED, 1, 0.4)
        hint = f"; did you mean 'embedded:{close[0]}'?" if close else ";"
        raise ValueError(f"data source {spec!r} does not exist{hint} embedded sets are {', '.join(EMBEDDED)}")
    key = embedded_key(name)

    def write(writer: BankWriter) -> None:
        tfds = _require_tfds(spec)
        with _quiet(tfds):
            folder = _prepare(name, root / "tfds" / key)
            builder = tfds.builder_from_directory(str(folder))
            _write(writer, builder.info.features, {s: builder.as_data_source(s) for s in builder.info.splits})

    return Source(spec, json.dumps(["embedded", name, key]), write)


def _prepare(name: str, data_dir: pathlib.Path) -> pathlib.Path:
    """Build in a private folder, then rename: two processes may do so at once."""
    made = EMBEDDED[name].builder
    target = data_dir / made / "1.0.0"
    if (target / "dataset_info.json").is_file():
        return target
    data_dir.mkdir(parents=True, exist_ok=True)
    private = pathlib.Path(tempfile.mkdtemp(prefix=".tmp-", dir=data_dir))
    try:
        builder = builder_class(name)(data_dir=str(private), file_format="array_record")
        builder.download_and_prepare()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(private / made / "1.0.0", target)
        except OSError:
            if not (target / "dataset_info.json").is_file():
                raise
    finally:
        shutil.rmtree(private, ignore_errors=True)
    return target


def find_tfds(spec: str, rest: str) -> Source:
    """Find a TFDS set, `NAME` or `NAME:CONFIG`, in `$TFDS_DATA_DIR` (default `~/tensorflow_datasets`).

    A ValueError if TFDS knows no such set, or it holds no images; a RuntimeError, which says what to do, if
    the set is not prepared as ArrayRecord and cannot be here.
    """
    tfds = _require_tfds(spec)
    name = rest.replace(":", "/", 1)
    with _quiet(tfds):
        try:
            builder = tfds.builder(name)
        except tfds.core.DatasetNotFoundError as error:
            close = difflib.get_close_matches(
                name.split("/")[0], tfds.list_builders(with_community_datasets=False), 3, 0.6
            )
            hint = f"; did you mean {' or '.join('tfds:' + item for item in close)}?" if close else ""
            raise ValueError(f"data source {spec!r}: TFDS has no set of that name{hint}") from error
        except ValueError as error:  # an unknown config: TFDS lists the known ones
            raise ValueError(f"data source {spec!r}: {error}") from error
        # A set whose splits nobody has counted yet has one name for sure.
        splits = [split for split in builder.info.splits if split_name(split)] or ["train"]
        sources = {split: _data_source(tfds, spec, name, split) for split in splits}
    parts = ["tfds", builder.info.full_name, {split: len(source) for split, source in sources.items()}]
    info = pathlib.Path(str(builder.data_dir)) / "dataset_info.json"
    parts.append([str(info), info.stat().st_mtime_ns] if info.is_file() else str(info))

    def write(writer: BankWriter) -> None:
        with _quiet(tfds):
            _write(writer, builder.info.features, sources)

    return Source(spec, json.dumps(parts), write)


def _data_source(tfds: Any, spec: str, name: str, split: str) -> Any:
    try:
        return tfds.data_source(name, split=split, download=False)
    # TFDS says "not prepared" with NotImplementedError, AssertionError or ValueError, by version and state.
    except Exception as first:
        error: Exception = first
    if importlib.util.find_spec("tensorflow") is not None:
        try:
            return tfds.data_source(name, split=split)
        except Exception as second:  # anything that goes wrong in a download
            error = second
    raise RuntimeError(
        f"data source {spec!r}: the set is not prepared as ArrayRecord in "
        f"{os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')}. Preparing it needs a network and, for "
        "most sets, TensorFlow: on a machine with both run\n"
        '  python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', file_format='array_record').download_and_prepare()\"\n"
        f"and copy the folder here, or point TFDS_DATA_DIR at it ({type(error).__name__}: {str(error)[:200]})"
    ) from error


def _image_feature(features: dict[str, Any], spec: str) -> str:
    """The feature to take: `image`, else `hr` (super-resolution sets), else the only one that is an image."""
    images = [key for key, value in features.items() if type(value).__name__ == "Image"]
    for wanted in ("image", "hr"):
        if wanted in images:
            return wanted
    if len(images) != 1:
        raise ValueError(
            f"data source {spec!r}: expected one image feature, found {images} among {list(features)}"
        )
    return images[0]


def _write(writer: BankWriter, features: Any, sources: dict[str, Any]) -> None:
    features = dict(features.items())
    image_key = _image_feature(features, writer.spec)
    label_key = "label" if type(features.get("label")).__name__ == "ClassLabel" else None
    name_key = "name" if type(features.get("name")).__name__ == "Text" else None
    for split, source in sources.items():
        official = split_name(split)
        for index in writer.track(range(len(source)), len(source)):
            example = source[index]
            image = np.asarray(example[image_key])
            if image.dtype != np.uint8:
                raise ValueError(f"data source {writer.spec!r} has {image.dtype} images; uint8 is expected")
            image = image if image.ndim == 3 else image[..., None]
            name = example[name_key].decode() if name_key else f"{split}/{index:07d}"
            writer.add(
                image[None],
                split=None if official == "train" else official,
                labels=[int(example[label_key])] if label_key else None,
                names=[name] if name_key or None in features[image_key].shape else None,
            )
