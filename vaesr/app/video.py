"""Upscaling of videos through FFmpeg (PyAV): picture by picture, sound and timing as they were."""

import contextlib
import dataclasses
import io
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaesr.files.atomic import atomic_file
from vaesr.files.extras import extra
from vaesr.inference.tiling import BoundUpscaler, auto_tile, bind_upscaler, memory_budget
from vaesr.inference.upscaling import upscale
from vaesr.runs.load import Run

READABLE = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".m2ts", ".wmv", ".flv", ".ogv")
WRITABLE = (".mp4", ".mkv", ".mov")
# H.264 beyond this has no level, and few players.
_H264_SIDE = 8192
_UNSPECIFIED, _BT709, _BT601 = 2, 1, 6
_BATCH = 8


class VideoFileError(ValueError):
    """A file that cannot be read or written as a video; the message is the reason, without the name."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """What was done to a video.

    Sizes are `(height, width)`; `rate` is pictures a second, as the file says; `notes` tell what was changed
    or left out, for example a stream that the new file cannot hold; `lost`, how many more pictures the file
    should have, by its own word or its damaged packets.
    """

    frames: int
    before: tuple[int, int]
    after: tuple[int, int]
    rate: Fraction
    notes: tuple[str, ...] = ()
    lost: int = 0


def upscale_video(
    run: Run,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    scale: float | None = None,
    tile: int | None = None,
    tile_pad: int | None = None,
    self_ensemble: bool = False,
    crf: int = 16,
    progress: Callable[[int, int], Any] | None = None,
) -> Clip:
    """Upscales a video; every picture keeps its time, and sound and subtitles are copied, not coded anew.

    Pictures go to the device as bytes, several at once where they fit its memory, and come back as bytes; the
    next are computed while the last are written. Colours are read with the matrix and range that the file
    names (BT.709 from 720 lines on and BT.601 below, where it names none) and written with the same, named.
    8-bit video becomes H.264, 10-bit (and what is larger than 8192 pixels) H.265.

    The source is any file that FFmpeg reads; the target ends in `.mp4`, `.mkv` or `.mov`, is written beside
    itself and moved there once complete. For `scale`, tiles and `self_ensemble` see `upscale`; `crf` is the
    encoder's quality, 0 (lossless) to 51. `progress(done, total)` is called with numbers of pictures; total
    is the file's own word. Of a damaged file what can be read is enlarged, and `Clip.lost` counts the rest. A
    VideoFileError where the file holds no video, nothing of it can be read, or the result cannot be written.
    """
    if isinstance(crf, bool) or not 0 <= crf <= 51:
        raise ValueError(f"crf must lie in 0..51, got {crf!r}")
    av = _pyav()
    target = pathlib.Path(target)
    if target.suffix.lower() not in WRITABLE:
        raise ValueError(f"a video must end in {', '.join(WRITABLE)}, got {str(target)!r}")
    try:
        with contextlib.ExitStack() as stack:
            reader = stack.enter_context(av.open(os.fspath(source)))
            video = _picture_stream(reader)
            temporary = stack.enter_context(atomic_file(target))
            writer = stack.enter_context(av.open(os.fspath(temporary), "w"))
            knobs = {"scale": scale, "tile": tile, "tile_pad": tile_pad, "self_ensemble": self_ensemble}
            return _copy(reader, video, writer, run, knobs, crf, progress)
    except av.error.FFmpegError as error:
        reason = error.strerror or str(error)
        raise VideoFileError(f"cannot be read or written as a video: {reason}") from error
    except OSError as error:
        raise VideoFileError(f"cannot write {target}: {error.strerror or error}") from error


def _pyav() -> Any:
    return extra("av", "videos need PyAV (FFmpeg)", "video")


def _picture_stream(reader: Any) -> Any:
    """The first stream that moves: covers of music files are streams of one picture."""
    moving = [s for s in reader.streams.video if "attached_pic" not in str(s.disposition).lower()]
    if not moving or not moving[0].codec_context or not moving[0].codec_context.format:
        raise VideoFileError("holds no video")
    moving[0].thread_type = "AUTO"
    return moving[0]


def _enlarged(
    pictures: Iterator[np.ndarray],
    run: Run,
    net: BoundUpscaler,
    *,
    scale: float | None,
    tile: int | None,
    **more: Any,
) -> Iterator[np.ndarray]:
    """Larger pictures: many at once where they fit the memory, else each in tiles."""
    first = next(pictures, None)
    if first is None:
        return
    everything = itertools.chain([first], pictures)
    height, width = first.shape[:2]
    whole = tile == 0 or (tile is None and auto_tile(height, width, net._replace(spread=None)) is None)
    if whole and scale in (None, net.scale) and net.halo is not None and not more["self_ensemble"]:
        yield from _batched(net, everything)
    else:
        for picture in everything:
            yield upscale(run, picture, scale=scale, tile=tile, **more)


def _batched(net: BoundUpscaler, pictures: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Pictures in batches of one size, one batch ahead of what is read back; only bytes cross over."""
    devices = jax.local_device_count() if net.spread else 1
    apply = net.spread("batch") if net.spread else net.apply
    size, waiting = 0, None
    while True:
        group = list(itertools.islice(pictures, size or 1))
        if not size:  # the first picture tells how many fit the memory; a CPU gains nothing from several
            fitting = memory_budget() // (net.bytes_per_pixel * group[0].shape[0] * group[0].shape[1])
            size = devices * (1 if jax.default_backend() == "cpu" else max(1, min(_BATCH, fitting)))
            group += itertools.islice(pictures, size - 1)
        current = None
        if group:
            batch = np.stack(group + group[-1:] * (size - len(group)))
            current = (_to_integers(apply(_to_unit(batch)), batch.dtype.name), len(group))
        if waiting is not None:
            yield from np.asarray(waiting[0])[: waiting[1]]
        if current is None:
            return
        waiting = current


@jax.jit
def _to_unit(pictures: Any) -> jax.Array:
    return pictures.astype(jnp.float32) / jnp.iinfo(pictures.dtype).max


@jax.jit
def _scaled(values: Any, top: Any) -> jax.Array:
    return jnp.floor(jnp.clip(values, 0.0, 1.0) * top + 0.5)


def _to_integers(values: Any, kind: str) -> jax.Array:
    return _scaled(values, float(np.iinfo(kind).max)).astype(kind)


def _copy(
    reader: Any,
    video: Any,
    writer: Any,
    run: Run,
    knobs: dict[str, Any],
    crf: int,
    progress: Callable[[int, int], Any] | None,
) -> Clip:
    """Reads, enlarges and writes in one pass."""
    context = video.codec_context
    net = bind_upscaler(run, knobs["scale"])
    factor = net.scale if knobs["scale"] is None else knobs["scale"]
    before = (context.height, context.width)
    after = (max(1, round(before[0] * factor)), max(1, round(before[1] * factor)))
    rate = video.average_rate or video.guessed_rate or Fraction(25)
    notes: list[str] = []
    output = None
    copies: dict[int, Any] = {}
    for stream in reader.streams:
        if stream is video:
            output = _video_stream(writer, video, after, rate, crf)
        elif stream.type in ("audio", "subtitle"):
            copy = _copied_stream(stream, writer, notes)
            if copy is not None:
                copies[stream.index] = copy
    assert output is not None
    writer.metadata.update(reader.metadata)
    writer.set_chapters(reader.chapters())
    times: list[tuple[int, Any]] = []
    packets = 0
    held: list[Any] = []  # the file begins once the first picture has told how it is turned

    def pictures() -> Iterator[np.ndarray]:
        nonlocal packets
        for packet in reader.demux():
            if packet.stream.index in copies:
                if packet.size and packet.pts is not None:  # the last, empty one only says that all were read
                    packet.stream = copies[packet.stream.index]
                    packet.dts = packet.pts if packet.dts is None else packet.dts
                    held.append(packet)
            elif packet.stream is video:
                packets += packet.size > 0
                for frame in _decoded(packet):
                    if (frame.height, frame.width) != before:
                        raise VideoFileError(f"changes its size to {frame.width}x{frame.height} midway")
                    if not times and frame.rotation:
                        output.set_display_rotation(frame.rotation)
                    step = Fraction(1) / rate / video.time_base
                    pts = frame.pts if frame.pts is not None else round(len(times) * step)
                    times.append((pts, frame.time_base or video.time_base))
                    yield _read_picture(frame, context)

    done = 0
    for picture in _enlarged(pictures(), run, net, **knobs):
        while held:
            writer.mux(held.pop(0))
        writer.mux(output.encode(_write_picture(picture, output, context, *times[done])))
        done += 1
        if progress is not None:
            progress(done, max(done, video.frames or 0))
    if not done:
        raise VideoFileError("holds no pictures that can be read")
    writer.mux(held)
    writer.mux(output.encode(None))
    # Other heads count what is no picture, too.
    listed = video.frames if "mp4" in reader.format.name else 0
    lost = max(0, (listed or packets) - done)
    by_length = round(_seconds(video) * rate) - done
    if by_length > 2:  # rates may vary
        lost = max(lost, by_length)
    return Clip(done, before, after, rate, tuple(notes), lost)


def _decoded(packet: Any) -> list[Any]:
    """A packet's pictures; none where it is damaged, as players go on, too."""
    try:
        return packet.decode()
    except _pyav().error.InvalidDataError:
        return []


def _seconds(video: Any) -> float:
    """How long the stream should be by its head; 0 where that does not say."""
    hours, _, rest = video.metadata.get("DURATION", "").partition(":")  # Matroska's
    try:
        minutes, seconds = rest.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0


def _copied_stream(stream: Any, writer: Any, notes: list[str]) -> Any:
    """A stream of sound or subtitles in the new file; None where that cannot hold it."""
    codec = stream.codec_context.name if stream.codec_context else "of an unknown codec"

    def copied_to(container: Any) -> Any:
        copy = container.add_stream_from_template(stream)
        copy.codec_context.codec_tag = "\0\0\0\0"  # the new container chooses its own
        return copy

    try:
        # Whether a container holds a codec only shows when its head is written.
        if codec.startswith("pcm_") and writer.format.name == "mp4":
            raise ValueError  # FFmpeg writes the head, and fails at the end
        with _pyav().open(io.BytesIO(), "w", format=writer.format.name) as trial:
            copied_to(trial)
            trial.start_encoding()
    except Exception:  # FFmpeg's errors, and PyAV's of codecs that it cannot copy
        notes.append(f"{stream.type} ({codec}) left out: {writer.format.name} cannot hold it")
        return None
    copy = copied_to(writer)
    copy.metadata.update(stream.metadata)
    return copy


def _video_stream(writer: Any, video: Any, size: tuple[int, int], rate: Fraction, crf: int) -> Any:
    """A stream for pictures of this size, that looks and is timed as the old one."""
    height, width = size
    old = video.codec_context
    deep = _bits(old.format) > 8
    codec = "libx265" if deep or max(size) > _H264_SIDE else "libx264"
    options = {"crf": str(crf), "preset": "medium"}
    if codec == "libx265":
        options["x265-params"] = "log-level=error"
    output = writer.add_stream(codec, rate=rate, options=options)
    output.width, output.height = width, height
    # Half-size colour needs even sides.
    full = "444" in old.format.name or height % 2 or width % 2
    output.pix_fmt = ("yuv444p" if full else "yuv420p") + ("10le" if deep else "")
    new = output.codec_context
    new.time_base = video.time_base
    if codec == "libx265" and writer.format.name != "matroska":
        new.codec_tag = "hvc1"  # what players of this family ask for
    new.colorspace, new.color_range = _matrix(old), _range(old)
    new.color_primaries, new.color_trc = old.color_primaries, old.color_trc
    if video.sample_aspect_ratio:
        new.sample_aspect_ratio = video.sample_aspect_ratio
    output.metadata.update({k: v for k, v in video.metadata.items() if k in ("language", "title")})
    return output


def _bits(pixels: Any) -> int:
    return max(component.bits for component in pixels.components)


def _matrix(context: Any) -> int:
    """The YCbCr matrix; players' habit where the file names none."""
    if context.format.is_rgb or context.colorspace in (0, _UNSPECIFIED):
        return _BT709 if context.height >= 720 else _BT601
    return int(context.colorspace)


def _range(context: Any) -> int:
    """1 for 16..235, 2 for 0..255."""
    return int(context.color_range) or (2 if context.format.name.startswith("yuvj") else 1)


# FFmpeg numbers matrices in one way for streams and in another for scaling: SWS_CS_* of libswscale.
_SWS = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
# BICUBIC | FULL_CHR_H_INT | FULL_CHR_H_INP | ACCURATE_RND of libswscale: colour is not made blocky.
_GOOD = 0x4 | 0x2000 | 0x4000 | 0x40000


def _read_picture(frame: Any, context: Any) -> np.ndarray:
    rgb = frame.reformat(
        format="rgb48le" if _bits(frame.format) > 8 else "rgb24",
        src_colorspace=_SWS.get(_matrix(context), 5),
        src_color_range=_range(context),
        dst_color_range=2,
        interpolation=_GOOD,
    )
    return np.asarray(rgb.to_ndarray())


def _write_picture(picture: np.ndarray, output: Any, context: Any, pts: int, time_base: Fraction) -> Any:
    form = "rgb48le" if picture.dtype == np.uint16 else "rgb24"
    frame = (
        _pyav()
        .VideoFrame.from_ndarray(picture, format=form)
        .reformat(
            format=output.pix_fmt,
            dst_colorspace=_SWS.get(_matrix(context), 5),
            src_color_range=2,
            dst_color_range=_range(context),
            interpolation=_GOOD,
        )
    )
    frame.colorspace, frame.color_range = _matrix(context), _range(context)
    frame.pts, frame.time_base = pts, time_base
    return frame
