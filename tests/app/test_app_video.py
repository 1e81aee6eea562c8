"""Videos made here, upscaled by networks whose results are known, and read back."""

import pathlib
import sys
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vaesr.app import VideoFileError, cli, upscale_video, video
from vaesr.app.status import Status
from vaesr.inference import upscale
from vaesr.runs.load import Run, load_run

av = pytest.importorskip("av")
RATE = Fraction(24000, 1001)


class Nearest(nn.Module):
    """Repeats pixels."""

    scale: int = 2
    receptive_radius: int = 0
    channels: int = 64
    wide_at_output: bool = True
    input_multiple: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.repeat(jnp.repeat(x, self.scale, axis=1), self.scale, axis=2)


@pytest.fixture(scope="module")
def nearest() -> Run:
    return Run(pathlib.Path("nearest"), Nearest(), {"generator": {}}, {}, {"model": {}}, 0)


def pictures(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """A bright bar that moves over a colour that changes."""
    found = []
    for i in range(count):
        picture = np.full((height, width, 3), (20 + 7 * i, 110, 190), np.uint8)
        picture[:, 2 * i : 2 * i + 4] = 235
        found.append(picture)
    return found


def make(
    path: pathlib.Path,
    count: int = 12,
    *,
    size: tuple[int, int] = (48, 64),
    pts: list[int] | None = None,
    sound: str | None = "aac",
    form: str = "yuv420p",
    codec: str = "libx264",
    rotation: int = 0,
    matrix: int | None = None,
    title: str = "",
    chapters: list[Any] | None = None,
    faststart: bool = False,
) -> pathlib.Path:
    options = {"movflags": "faststart"} if faststart and path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as writer:
        writer.metadata.update({"title": title} if title else {})
        writer.set_chapters(chapters or [])
        stream = writer.add_stream(codec, rate=RATE, options={"crf": "1"} if "264" in codec else {})
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], form
        stream.codec_context.time_base = Fraction(1, 24000)
        if rotation:
            stream.set_display_rotation(rotation)
        if matrix:
            stream.codec_context.colorspace = matrix
        audio = writer.add_stream(sound, rate=44100) if sound else None
        for i, picture in enumerate(pictures(count, *size)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if matrix:
                frame = frame.reformat(format=form, dst_colorspace=matrix)
            frame.pts, frame.time_base = (pts[i] if pts else i * 1001), Fraction(1, 24000)
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode(None))
        if audio is not None:
            wave = np.sin(np.arange(44100) * 0.06).astype(np.float32)[None] * 0.3
            for k in range(0, wave.shape[1] - 1024, 1024):
                block = av.AudioFrame.from_ndarray(wave[:, k : k + 1024], format="fltp", layout="mono")
                block.sample_rate, block.pts = 44100, k
                writer.mux(audio.encode(block))
            writer.mux(audio.encode(None))
    return path


def read(path: pathlib.Path) -> tuple[list[Any], list[bytes], Any]:
    """Pictures, packets of sound, and facts of the stream."""
    with av.open(str(path)) as reader:
        sound = [bytes(p) for p in reader.demux(audio=0) if p.dts is not None] if reader.streams.audio else []
    with av.open(str(path)) as reader:
        stream = reader.streams.video[0]
        frames = list(reader.decode(stream))
        context = stream.codec_context
        facts = (context.name, context.pix_fmt, stream.average_rate, context.colorspace, context.color_range)
    return frames, sound, facts


def rgb(frame: Any, matrix: int = 5) -> np.ndarray:
    found = frame.reformat(format="rgb24", src_colorspace=matrix, src_color_range=1, dst_color_range=2)
    return np.asarray(found.to_ndarray()).astype(int)


def test_sound_times_and_colours_stay(nearest: Run, tmp_path: pathlib.Path) -> None:
    source, seen = make(tmp_path / "a.mp4"), []
    clip = upscale_video(nearest, source, tmp_path / "b.mp4", progress=lambda *now: seen.append(now))
    before, sound, _ = read(source)
    after, copied, facts = read(tmp_path / "b.mp4")
    assert (clip.frames, clip.before, clip.after, clip.rate) == (12, (48, 64), (96, 128), RATE)
    assert facts == ("h264", "yuv420p", RATE, 6, 1)
    assert sound == copied and len(sound) > 30
    assert [f.pts * f.time_base for f in before] == [f.pts * f.time_base for f in after]
    assert seen[-1] == (12, 12)
    for picture, frame in zip(pictures(12), after, strict=True):
        # Away from the bar, whose colour is shared with its neighbours', a flat colour stays what it was.
        assert np.abs(rgb(frame)[10, 100:] - picture[5, 60]).max() <= 3
    assert np.mean([np.abs(rgb(b)[::2, ::2] - rgb(a)).mean() for a, b in zip(before, after, strict=True)]) < 2


def test_uneven_times_stay(nearest: Run, tmp_path: pathlib.Path) -> None:
    pts = [0, 1001, 3003, 3500, 9000, 9100, 20000, 48000]
    source = make(tmp_path / "a.mkv", 8, pts=pts)
    upscale_video(nearest, source, tmp_path / "b.mkv")
    before, after = read(source)[0], read(tmp_path / "b.mkv")[0]
    found = np.array([float(f.pts * f.time_base) for f in after])
    np.testing.assert_allclose(found, [float(f.pts * f.time_base) for f in before], atol=1e-9)
    np.testing.assert_allclose(found, np.array(pts) / 24000, atol=1e-3)


@pytest.mark.parametrize(("height", "matrix", "sws"), [(48, 1, 1), (720, None, 1), (48, None, 5)])
def test_the_matrix_is_the_files_or_the_habit(
    nearest: Run, tmp_path: pathlib.Path, height: int, matrix: int | None, sws: int
) -> None:
    source = make(tmp_path / "a.mp4", 2, size=(height, 64), matrix=matrix, sound=None)
    upscale_video(nearest, source, tmp_path / "b.mp4")
    before, after = read(source)[0], read(tmp_path / "b.mp4")
    assert after[2][3] == {1: 1, 5: 6}[sws]  # named, so that players need not guess by the new size
    np.testing.assert_allclose(
        rgb(after[0][0], sws)[10, 100:].mean(0), rgb(before[0], sws)[5, 50:].mean(0), atol=1.5
    )


def test_turned_pictures_stay_turned_and_odd_sizes_work(nearest: Run, tmp_path: pathlib.Path) -> None:
    source = make(tmp_path / "a.mp4", 3, rotation=90)
    upscale_video(nearest, source, tmp_path / "b.mp4", scale=1.5)
    before, after = read(source)[0], read(tmp_path / "b.mp4")[0]
    assert before[0].rotation == after[0].rotation != 0
    clip = upscale_video(nearest, source, tmp_path / "c.mkv", scale=47 / 48)
    assert clip.after == (47, 63)
    assert read(tmp_path / "c.mkv")[2][1] == "yuv444p"


def test_ten_bits_stay_ten(nearest: Run, tmp_path: pathlib.Path) -> None:
    source = make(tmp_path / "a.mp4", 3, codec="libx265", form="yuv420p10le")
    upscale_video(nearest, source, tmp_path / "b.mp4")
    frames, sound, facts = read(tmp_path / "b.mp4")
    assert facts[:2] == ("hevc", "yuv420p10le")
    assert sound == read(source)[1]
    assert np.abs(rgb(frames[1])[10, 100:] - pictures(3)[1][5, 60]).max() <= 3


@pytest.mark.slow
def test_batches_are_the_pictures_one_by_one(
    edsr_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load_run(edsr_folder)
    given = pictures(7, 20, 28)
    knobs = {"scale": None, "tile": None, "tile_pad": None, "self_ensemble": False}
    net = video.bind_upscaler(run)
    for backend in ("cpu", "gpu"):  # single pictures, and eight a device with a last batch that is filled
        monkeypatch.setattr(jax, "default_backend", lambda name=backend: name)
        found = list(video._enlarged(iter(given), run, net, **knobs))
        monkeypatch.undo()
        assert len(found) == 7
        for picture, larger in zip(given, found, strict=True):
            assert np.abs(larger.astype(int) - upscale(run, picture).astype(int)).max() <= 1
    tiled = list(video._enlarged(iter(given), run, net, **{**knobs, "tile": 16}))
    assert all(np.abs(a.astype(int) - b.astype(int)).max() <= 1 for a, b in zip(tiled, found, strict=True))


def test_chapters_and_titles_stay(nearest: Run, tmp_path: pathlib.Path) -> None:
    chapter = {"id": 1, "start": 0, "end": 60, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}}
    make(tmp_path / "a.mkv", 3, title="A film", chapters=[chapter])
    upscale_video(nearest, tmp_path / "a.mkv", tmp_path / "b.mkv")
    with av.open(str(tmp_path / "b.mkv")) as reader:
        assert reader.metadata["title"] == "A film"
        assert [c["metadata"]["title"] for c in reader.chapters()] == ["One"]


def test_streams_that_do_not_fit_are_named(nearest: Run, tmp_path: pathlib.Path) -> None:
    source = make(tmp_path / "a.mkv", 3, sound="pcm_s16le")
    clip = upscale_video(nearest, source, tmp_path / "b.mp4")
    assert len(clip.notes) == 1 and "audio (pcm_s16le) left out" in clip.notes[0]
    assert upscale_video(nearest, source, tmp_path / "b.mkv").notes == ()
    assert read(source)[1] == read(tmp_path / "b.mkv")[1]


def test_bad_files_leave_nothing(nearest: Run, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "text.mp4").write_text("no film")
    whole = make(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with av.open(str(tmp_path / "sound.mkv"), "w") as writer:
        stream = writer.add_stream("pcm_s16le", rate=8000)
        block = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        block.sample_rate = 8000
        writer.mux(stream.encode(block))
    for name, words in (("text.mp4", "Invalid data"), ("cut.mp4", "Invalid data"), ("sound.mkv", "no video")):
        with pytest.raises(VideoFileError, match=words):
            upscale_video(nearest, tmp_path / name, out / "b.mp4")
    with pytest.raises(VideoFileError, match="No such file"):
        upscale_video(nearest, tmp_path / "none.mp4", out / "b.mp4")
    with pytest.raises(ValueError, match=r"\.mp4, \.mkv, \.mov"):
        upscale_video(nearest, tmp_path / "a.mp4", out / "b.avi")
    with pytest.raises(ValueError, match=r"crf must lie in 0\.\.51"):
        upscale_video(nearest, tmp_path / "a.mp4", out / "b.mp4", crf=99)
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    ("name", "harm"),
    [("a.mp4", "cut"), ("a.mkv", "cut"), ("a.mp4", "zeros"), ("a.mkv", "zeros")],
)
def test_of_a_damaged_film_the_rest_is_made_and_the_loss_is_told(
    edsr_folder: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    harm: str,
) -> None:
    whole = bytearray(make(tmp_path / name, 40, sound=None, faststart=True).read_bytes())
    if harm == "cut":
        del whole[len(whole) * 2 // 3 :]
    else:
        half = len(whole) // 2
        whole[half : half + len(whole) // 8] = bytes(len(whole) // 8)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(whole)
    run = ["--run", str(edsr_folder)]
    assert cli.main(["upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *run]) == 1
    said = capsys.readouterr().err
    assert "is damaged" in said and "of 40 pictures are lost" in said
    kept, _, _ = read(next((tmp_path / "out").iterdir()))
    assert 4 < len(kept) < 40


def test_pictures_are_counted_as_what_they_are(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    report = Status.progress

    def note(status: Status, *now: Any, **how: Any) -> None:
        report(status, *now, **how)
        said.append(status.text().split(",")[0])

    monkeypatch.setattr(Status, "progress", note)
    source = make(tmp_path / "a.mp4", 3)
    arguments = ["upscale", str(source), "-o", str(tmp_path / "b.mp4"), "--run", str(edsr_folder)]
    assert cli.main(arguments) == 0
    assert said == [f"a.mp4: picture {number} of 3" for number in (1, 2, 3)]


def test_without_pyav(nearest: Run, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"vaesr\[video\]"):
        upscale_video(nearest, tmp_path / "a.mp4", tmp_path / "b.mp4")


def test_the_command(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    make(clips / "a.mp4", 3)
    make(clips / "b.avi", 3, codec="mpeg4", sound="mp3")
    (clips / "c.mov").write_bytes(b"no film")
    (clips / "notes.txt").write_text("no clip")
    code = cli.main(["upscale", str(clips), "-o", str(tmp_path / "o"), "--run", str(edsr_folder)])
    shown = capsys.readouterr()
    assert code == 1
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["a_out.mp4", "b_out.mkv"]
    assert "a.mp4: 64x48 -> 128x96" in shown.out and "3 pictures" in shown.out
    assert ".avi written as Matroska" in shown.out
    assert "1 of 3 files failed" in shown.err and "c.mov" in shown.err
    for wrong, words in (("x.png", ".mp4, .mkv, .mov"), ("x.webm", ".mp4, .mkv, .mov")):
        arguments = ["upscale", str(clips / "a.mp4"), "-o", str(tmp_path / wrong), "--run", str(edsr_folder)]
        assert cli.main(arguments) == 2
        assert words in capsys.readouterr().err
