"""Eighty inputs that go wrong, or look as if: one line each, the documented exit code, no debris."""

import errno
import io
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from vaesr.app.cli import main
from vaesr.files.images import Photo, read_photo, write_photo
from vaesr.pretrained import write_checkpoint, write_network
from vaesr.runs import load_run


def pixels(channels: int = 3, bits: int = 8) -> np.ndarray:
    kind = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(channels).integers(0, 2**bits, (9, 12, channels)).astype(kind)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def rgb() -> Image.Image:
    return Image.fromarray(pixels())


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes of data don't have."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def flipped(content: bytes) -> bytes:
    place = content.index(b"IDAT") + 10
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(rgb(), "PNG", exif=exif)


def with_text() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 2**22, zip=True)
    return saved(rgb(), "PNG", pnginfo=info)


def frames(form: str) -> bytes:
    return saved(rgb(), form, save_all=True, append_images=[rgb().rotate(90)], duration=50)


def array(values: np.ndarray, form: str = "TIFF") -> bytes:
    return saved(Image.fromarray(values), form)


PNG, JPG = saved(rgb(), "PNG"), saved(rgb(), "JPEG")
# What it is called, its bytes, and what is said of it.
BROKEN: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.png", b"", "is empty"),
    "one byte": ("a.png", b"\x89", "is not an image"),
    "signature alone": ("a.png", PNG[:8], "is "),
    "header alone": ("a.png", PNG[:33], "is not an image"),
    "cut in the data": ("a.png", PNG[:-60], "is truncated"),
    "a wrong byte in the data": ("a.png", flipped(PNG), "is damaged"),
    "zero wide": ("a.png", png_of(0, 9), "is not an image"),
    "zero high": ("a.png", png_of(9, 0), "is not an image"),
    "a bomb of 3.6 gigapixels": ("a.png", png_of(60_000, 60_000), "exceeds limit"),
    "a bomb, wide": ("a.png", png_of(2**31 - 1, 1), "exceeds limit"),
    "less data than pixels": ("a.png", png_of(300, 300), "is truncated"),
    "JPEG cut in half": ("a.jpg", JPG[: len(JPG) // 2], "is truncated"),
    "JPEG's first bytes": ("a.jpg", JPG[:20], "is "),
    "words": ("a.jpg", b"not an image", "is not an image"),
    "a page": ("a.png", b"<!doctype html><html></html>", "is not an image"),
    "vectors": ("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
    "an archive": ("a.png", b"PK\x05\x06" + bytes(18), "is not an image"),
    "a program": ("a.jpg", b"\x7fELF" + bytes(60), "is not an image"),
    "HEIC": ("a.jpg", b"\x00\x00\x00\x18ftypheic" + bytes(20), "is not an image"),
    "GIF cut": ("a.gif", saved(rgb(), "GIF")[:30], "is "),
    "BMP cut": ("a.bmp", saved(rgb(), "BMP")[:60], "is "),
    "WebP cut": ("a.webp", saved(rgb(), "WEBP")[:40], "is "),
    "TIFF cut": ("a.tif", array(pixels())[:60], "is "),
    "float samples": ("a.tif", array(np.ones((9, 12), np.float32)), "32-bit float"),
    "integers of 32 bits": ("a.tif", array(np.full((9, 12), 70_000, np.int32)), "32-bit integer"),
    "zeros": ("a.png", bytes(1000), "is not an image"),
}  # fmt: skip
# What it is called, its bytes, and the channels of the result.
GOOD: dict[str, tuple[str, bytes, int]] = {
    "PNG called JPEG": ("a.jpg", PNG, 3),
    "JPEG called PNG": ("a.png", JPG, 3),
    "CMYK": ("a.jpg", saved(rgb().convert("CMYK"), "JPEG"), 3),
    "CMYK with a broken profile": (
        "a.jpg", saved(rgb().convert("CMYK"), "JPEG", icc_profile=b"broken"), 3
    ),
    "YCCK": ("a.tif", saved(rgb().convert("YCbCr"), "TIFF"), 3),
    "LAB": ("a.tif", saved(rgb().convert("LAB"), "TIFF"), 3),
    "a palette": ("a.png", saved(rgb().convert("P"), "PNG"), 3),
    "a palette with a hole": ("a.png", saved(rgb().convert("P"), "PNG", transparency=3), 4),
    "one bit": ("a.png", saved(rgb().convert("1"), "PNG"), 1),
    "animated GIF": ("a.gif", frames("GIF"), 3),
    "animated PNG": ("a.png", frames("PNG"), 3),
    "animated WebP": ("a.webp", frames("WEBP"), 3),
    "rubbish behind the end": ("a.png", PNG + b"rubbish" * 9, 3),
    "a comment of 4 MiB": ("a.png", with_text(), 3),
    "broken EXIF": ("a.jpg", saved(rgb(), "JPEG", exif=b"Exif\x00\x00rubbish"), 3),
    "16-bit colour TIFF called PNG": ("a.png", array(pixels(1, 16)[..., 0]), 1),
    **{f"EXIF orientation {n}": ("a.png", turned(n), 3) for n in range(1, 9)},
    "an unknown orientation": ("a.png", turned(77), 3),
    "unicode": ("ünï 图 \N{SNOWMAN}.png", PNG, 3),
    "a line break in the name": ("a\nb.png", PNG, 3),
    "a name that looks like a flag": ("-o.png", PNG, 3),
    "a name of 200 letters": ("x" * 200 + ".png", PNG, 3),
    "capital ending": ("A.PNG", PNG, 3),
}  # fmt: skip


def upscale(run: pathlib.Path, source: pathlib.Path, output: pathlib.Path, *more: str) -> int:
    return main(["upscale", "--model-path", str(run), f"--input={source}", "-o", str(output), *more])


@pytest.mark.parametrize("case", BROKEN)
def test_broken_images(
    case: str, edsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, words = BROKEN[case]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    write_photo(tmp_path / "in" / "good.png", Photo(pixels()))
    assert upscale(edsr_folder, tmp_path / "in", tmp_path / "out") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "vaesr upscale: 1 of 2 files failed:" and len(lines) == 2
    assert f"{name}: " in lines[1] and words in lines[1], lines
    # The good one is done, and there is nothing else.
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good_out.png"]


@pytest.mark.parametrize("case", GOOD)
def test_odd_images(
    case: str, edsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, channels = GOOD[case]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    assert upscale(edsr_folder, tmp_path / "in", tmp_path / "out") == 0
    assert capsys.readouterr().err == ""
    (made,) = (tmp_path / "out").iterdir()
    on_its_side = case.startswith("EXIF orientation") and int(case[-1]) >= 5
    assert read_photo(made).pixels.shape == ((24, 18) if on_its_side else (18, 24)) + (channels,)


@pytest.mark.parametrize(("channels", "bits"), [(1, 16), (2, 16), (3, 16), (4, 16), (2, 8), (4, 8)])
def test_depth_and_alpha_stay(
    channels: int, bits: int, edsr_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    write_photo(tmp_path / "a.png", Photo(pixels(channels, bits)))
    assert upscale(edsr_folder, tmp_path / "a.png", tmp_path / "b.png") == 0
    result = read_photo(tmp_path / "b.png").pixels
    assert result.shape == (18, 24, channels) and result.dtype == pixels(channels, bits).dtype


def test_a_broken_link_and_a_folder_called_like_a_photo(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "folder.png").mkdir()
    assert upscale(edsr_folder, folder, tmp_path / "out") == 2
    assert "holds no image files" in capsys.readouterr().err
    assert upscale(edsr_folder, folder / "broken.png", tmp_path / "out") == 2
    assert "there is no file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_leaves_nothing_half_written(
    code: int,
    edsr_folder: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_photo(tmp_path / "a.png", Photo(pixels()))

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    assert upscale(edsr_folder, tmp_path / "a.png", tmp_path / "out") == 1
    assert os.strerror(code) in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


def test_the_output_is_a_file(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photo(tmp_path / "a.png", Photo(pixels()))
    (tmp_path / "file").write_text("")
    assert upscale(edsr_folder, tmp_path / "a.png", tmp_path / "file" / "b.png") == 2
    assert "file is a file" in capsys.readouterr().err


def torchscript() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N.")
        archive.writestr("a/code/__torch__.py", "")
    return buffer.getvalue()


Change = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
NETWORKS: dict[str, tuple[Change, str]] = {
    "a missing layer": (lambda s: {k: v for k, v in s.items() if "tail.1" not in k}, "lacks tail.1.bias"),
    "a layer too many": (lambda s: s | {"body.9.bias": np.zeros(8)}, "also has body.9.bias"),
    "NaN": (lambda s: s | {"head.0.bias": np.full(8, np.nan)}, "head.0.bias holds values"),
    "infinity": (lambda s: s | {"tail.1.bias": np.full(3, np.inf)}, "tail.1.bias holds values"),
    "another size": (lambda s: s | {"body.2.bias": np.zeros(9)}, "body.2.bias has shape (9,)"),
    "no kernel": (lambda s: s | {"head.0.weight": np.zeros(3)}, "it looks like EDSR"),
    "no layer of ours": (lambda s: {"layers.0.weight": np.zeros(3)}, "no network known here"),
    "nothing": (lambda s: {}, "no state dict"),
}  # fmt: skip


@pytest.mark.parametrize("case", NETWORKS)
def test_hostile_networks(
    case: str, edsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = NETWORKS[case]
    trained = load_run(edsr_folder)
    state = change(write_network(trained.model, trained.params["edsr"], "edsr"))
    state = {key: value.astype(np.float32) for key, value in state.items()}
    path = tmp_path / "network.pth"
    path.write_bytes(write_checkpoint(path, state))
    write_photo(tmp_path / "a.png", Photo(pixels()))
    assert upscale(path, tmp_path / "a.png", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(path) in said and words in said, said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no checkpoint that can be read"),
        (b"\x80\x02", "no checkpoint that can be read"),
        (JPG, "no checkpoint that can be read"),
        (torchscript(), "TorchScript"),
        (b"\xff" * 8 + b"{}", "no checkpoint that can be read"),
        (b"7767517\n", "must be beside it"),
    ],
    ids=["empty", "cut", "a photo", "TorchScript", "safetensors of 2**64 bytes", "ncnn without weights"],
)
def test_files_that_are_no_networks(
    content: bytes,
    words: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "network.pth").write_bytes(content)
    write_photo(tmp_path / "a.png", Photo(pixels()))
    assert upscale(tmp_path / "network.pth", tmp_path / "a.png", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said, said
    assert not (tmp_path / "out").exists()
