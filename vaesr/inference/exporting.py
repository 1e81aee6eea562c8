"""Upscalers for other programs: StableHLO that any JAX runs, and ONNX for the rest of the world."""

import contextlib
import functools
import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaesr import forms
from vaesr.files.atomic import write_atomically
from vaesr.files.extras import extra
from vaesr.inference.tiling import bind_upscaler
from vaesr.models import Convolutional, Looped, MultiScaleUpscaler
from vaesr.runs.load import Run

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
LAYOUTS = ("nhwc", "nchw")
# How far an exported network may be from the model itself, relative to the largest value.
TOLERANCE = 1e-4


def export_stablehlo(
    run: Run,
    *,
    scale: int | None = None,
    size: tuple[int, int] | None = None,
    layout: str = "nhwc",
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> bytes:
    """Turns an upscaler into StableHLO, its weights within, that `load_exported` or any JAX runs.

    JAX promises to read such files for six months after they were written, and on devices of the platforms
    named. Each platform gets its own forms of operations, of a fixed size also those of `conv2d`.

    Args:
        run: of a super-resolution network.
        scale: of a network with several, one of them; None takes the largest.
        size: `(height, width)` of the input in pixels; None leaves them, and the batch, open.
        layout: "nhwc" or "nchw", of input and output.
        platforms: what it must run on, some of `PLATFORMS`.

    Returns:
        What `jax.export` serialises: a function `float32 [N, h, w, 3] -> [N, h * scale, w * scale, 3]` of RGB
        in [0, 1].

    Raises:
        ImportError: if the package flatbuffers is not installed.
        ValueError: on an unknown layout, platform or scale, or if the network needs to know the size.
    """
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise ValueError(
            f"platforms must be some of {', '.join(PLATFORMS)}, got {', '.join(unknown) or '()'}"
        )
    _need("flatbuffers")
    apply, multiple = _portable(run, scale, layout, direct=size is None)
    text = _dimensions(size, multiple, layout)
    shape = jax.export.symbolic_shape(text, constraints=["h >= 1", "w >= 1"] if size is None else [])
    try:
        exported = jax.export.export(jax.jit(apply), platforms=tuple(platforms))(
            jax.ShapeDtypeStruct(shape, jnp.float32)
        )
    except Exception as error:  # JAX's errors of symbolic sizes have no common base
        raise _needs_size(run, size, error) from error
    return bytes(exported.serialize())


def load_exported(path: str | os.PathLike[str]) -> Callable[[Any], jax.Array]:
    """Reads a file of `export_stablehlo`.

    Args:
        path: the file.

    Returns:
        The function, compiled once for each size. `upscale` takes it, too, with the network's `halo`.

    Raises:
        ImportError: if the package flatbuffers is not installed.
        OSError: if the file cannot be read.
        ValueError: if it holds something else.
    """
    _need("flatbuffers")
    data = bytearray(pathlib.Path(path).read_bytes())
    try:
        return jax.jit(jax.export.deserialize(data).call)
    except Exception as error:  # flatbuffers raises nearly anything on other bytes
        raise ValueError(f"{str(path)!r} holds no function that jax.export has written") from error


def export_onnx(
    run: Run, *, scale: int | None = None, size: tuple[int, int] | None = None, layout: str = "nchw"
) -> bytes:
    """Turns an upscaler into an ONNX model, through jax2onnx.

    Args:
        run: of a super-resolution network.
        scale: of a network with several, one of them; None takes the largest.
        size: `(height, width)` of the input in pixels; None leaves them, and the batch, open.
        layout: "nchw", as most programs expect, or "nhwc".

    Returns:
        The serialised model: input "input" and output "output", float32 RGB in [0, 1]. Its metadata say the
        scale, the layout and where the weights come from.

    Raises:
        ImportError: if jax2onnx is not installed.
        ValueError: on an unknown layout or scale, or if the network needs to know the size.
    """
    converter = _need("jax2onnx")
    import onnx

    apply, multiple = _portable(run, scale, layout, direct=True)
    if size is None and multiple > 1:
        raise ValueError(
            f"{run.path.name} takes {multiple}x{multiple} pixels at a time: ONNX needs --size for it"
        )
    shape = _dimensions(size, 1, layout).replace(" ", "").split(",")
    dimensions = tuple(int(side) if side.isdigit() else side.upper() for side in shape)
    try:
        # jax2onnx traces with operations of its own, which must not stay in the caches of jitted functions.
        with _hushed("onnx_ir", "jax2onnx"), jax.disable_jit(), forms.only("cpu"):
            model = converter.to_onnx(
                apply, [dimensions], model_name="upscaler", input_names=["input"], output_names=["output"]
            )
    except Exception as error:  # it raises nearly anything where it cannot
        raise _needs_size(run, size, error) from error
    facts = {
        "scale": str(bind_upscaler(run, scale).scale),
        "layout": layout.upper(),
        "colours": "RGB in [0, 1]",
        "origin": json.dumps(run.config.get("origin", {"run": run.path.name, "step": run.step})),
    }
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def largest_difference(
    run: Run, data: bytes, kind: str, *, scale: int | None = None, size: tuple[int, int] | None, layout: str
) -> float:
    """Runs an exported upscaler beside the model itself, on noise.

    Args:
        run: the network that was exported.
        data: what `export_stablehlo` or `export_onnx` returned.
        kind: "stablehlo" or "onnx".
        scale: as at the export.
        size: as at the export.
        layout: as at the export.

    Returns:
        The largest difference, relative to the model's largest value.

    Raises:
        ImportError: for ONNX, if onnxruntime is not installed.
        RuntimeError: for ONNX, if onnxruntime does not run it.
    """
    height, width = size or (24, 36)  # multiples of all that networks ask for
    x = np.random.default_rng(0).random((1, height, width, 3), dtype=np.float32)
    given = x.transpose(0, 3, 1, 2) if layout == "nchw" else x
    if kind == "onnx":
        runtime = _need("onnxruntime")
        try:
            session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
            found = session.run(None, {"input": given})[0]
        except Exception as error:  # its errors have no base of their own
            name = type(run.model).__name__
            raise RuntimeError(f"onnxruntime does not run the converted {name}: {error}") from error
    else:
        found = np.asarray(jax.jit(jax.export.deserialize(bytearray(data)).call)(given))
    found = found.transpose(0, 2, 3, 1) if layout == "nchw" else found
    wanted = np.asarray(bind_upscaler(run.precise(), scale).apply(x))
    return float(np.abs(found - wanted).max() / max(1e-6, np.abs(wanted).max()))


def write_export(
    run: Run,
    path: str | os.PathLike[str],
    *,
    scale: int | None = None,
    size: tuple[int, int] | None = None,
    layout: str | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> float:
    """Exports an upscaler to a file, and only there once it has given the model's own results.

    Args:
        run: of a super-resolution network.
        path: ends in `.onnx` or `.stablehlo`.
        scale: see `export_onnx`.
        size: see `export_onnx`.
        layout: None is "nchw" for ONNX and "nhwc" for StableHLO.
        platforms: see `export_stablehlo`.

    Returns:
        The largest difference to the model itself, see `largest_difference`.

    Raises:
        ImportError: if a package is missing.
        ValueError: on another ending or layout, or if the network needs to know the size.
        RuntimeError: where the exported network's results are others; nothing is written.
        OSError: if the file cannot be written.
    """
    path = pathlib.Path(path)
    kind = path.suffix.lower()[1:]
    if kind not in ("onnx", "stablehlo"):
        raise ValueError(f"the output must end in .onnx or .stablehlo, got {str(path)!r}")
    layout = layout or ("nchw" if kind == "onnx" else "nhwc")
    run = run.precise()
    if kind == "onnx":
        data = export_onnx(run, scale=scale, size=size, layout=layout)
        checked = data
    else:
        export = functools.partial(export_stablehlo, run, scale=scale, size=size, layout=layout)
        data = export(platforms=platforms)
        here = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
        # What is made for other devices only cannot be run here: its like for this one is.
        checked = data if here in platforms else export(platforms=(here,))
    difference = largest_difference(run, checked, kind, scale=scale, size=size, layout=layout)
    if not difference <= TOLERANCE:
        raise RuntimeError(f"the exported network differs from the model by {difference:.2g}: not written")
    write_atomically(path, data)
    return difference


def _portable(run: Run, scale: int | None, layout: str, *, direct: bool) -> tuple[Callable[[Any], Any], int]:
    """The network and what its sizes must be multiples of; `direct` convolutions take any size."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be nhwc or nchw, got {layout!r}")
    net = bind_upscaler(run, scale)
    static: dict[str, Any] = {"scale": net.scale} if isinstance(run.model, MultiScaleUpscaler) else {}
    model: Any = run.model.clone(loop=False) if isinstance(run.model, Looped) else run.model
    if direct and isinstance(run.model, Convolutional):
        model = model.clone(conv_form="direct")
    collections = run.collections

    def apply(x: Any) -> Any:
        if layout == "nchw":
            return model.apply(collections, x.transpose(0, 2, 3, 1), **static).transpose(0, 3, 1, 2)
        return model.apply(collections, x, **static)

    return apply, net.multiple


def _dimensions(size: tuple[int, int] | None, multiple: int, layout: str) -> str:
    """The input's shape in the words of `jax.export.symbolic_shape`."""
    times = f"{multiple}*" if multiple > 1 else ""
    height, width = size or (f"{times}h", f"{times}w")
    batch = "b" if size is None else "1"
    return f"{batch}, {height}, {width}, 3" if layout == "nhwc" else f"{batch}, 3, {height}, {width}"


def _needs_size(run: Run, size: tuple[int, int] | None, error: Exception) -> ValueError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    advice = "" if size else "; give --size, this network may need it"
    return ValueError(f"{type(run.model).__name__} cannot be exported: {reason}{advice}")


@contextlib.contextmanager
def _hushed(*names: str) -> Iterator[None]:
    """Keeps jax2onnx quiet about inner shapes that stay open, and about its plugins for other packages."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _need(package: str) -> Any:
    """Imports what only exporting needs."""
    with _hushed("jax2onnx"):
        return extra(package, f"exporting needs {package}", "export")
