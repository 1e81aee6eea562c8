"""Every kind of image file that a folder may hold: converted with a note, or left out with a reason."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from vaesr.files import ImageFileError, decode_image

RAMP = np.add.outer(np.arange(24) * 5, np.arange(32) * 3).astype(np.uint8)
COLOUR = np.stack([RAMP, 255 - RAMP, RAMP[::-1]], -1)


def encode(image: PIL.Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(values: np.ndarray, colour_type: int) -> bytes:
    """A 16-bit PNG written by hand, with the Sub filter so that unfiltering matters."""
    height, width = values.shape[:2]
    raw = values.astype(">u2").reshape(height, -1).view(np.uint8).reshape(height, -1)
    step = 2 * (values.shape[2] if values.ndim == 3 else 1)
    sub = raw.astype(int).copy()
    sub[:, step:] -= raw[:, :-step]
    lines = np.concatenate([np.ones((height, 1), np.uint8), (sub % 256).astype(np.uint8)], 1)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes())) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_plain_rgb_is_untouched() -> None:
    pixels, notes = decode_image(encode(PIL.Image.fromarray(COLOUR)))
    np.testing.assert_array_equal(pixels, COLOUR)
    assert pixels.dtype == np.uint8 and notes == []


def test_grey_and_bilevel() -> None:
    pixels, notes = decode_image(encode(PIL.Image.fromarray(RAMP)))
    np.testing.assert_array_equal(pixels, np.repeat(RAMP[..., None], 3, -1))
    assert "grey" in notes[0]
    pixels, notes = decode_image(encode(PIL.Image.fromarray(RAMP > 100)))
    np.testing.assert_array_equal(pixels[..., 1], np.where(RAMP > 100, 255, 0))


def test_palette_with_and_without_transparency() -> None:
    image = PIL.Image.fromarray(COLOUR).quantize(16)
    pixels, notes = decode_image(encode(image))
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))
    assert "palette" in notes[0]
    pixels, notes = decode_image(encode(image, transparency=int(np.asarray(image)[0, 0])))
    np.testing.assert_array_equal(pixels[0, 0], [255, 255, 255])
    assert "palette with transparency" in notes[0] and "white" in notes[1]


def test_cmyk_jpeg() -> None:
    pixels, notes = decode_image(encode(PIL.Image.fromarray(COLOUR).convert("CMYK"), "JPEG", quality=95))
    assert "CMYK" in notes[0]
    assert np.abs(pixels.astype(int) - COLOUR).mean() < 6


def test_alpha_opaque_and_not() -> None:
    opaque = np.concatenate([COLOUR, np.full((24, 32, 1), 255, np.uint8)], -1)
    pixels, notes = decode_image(encode(PIL.Image.fromarray(opaque)))
    np.testing.assert_array_equal(pixels, COLOUR)
    assert "opaque" in notes[0]
    clear = opaque.copy()
    clear[:5, ..., 3] = 0
    pixels, notes = decode_image(encode(PIL.Image.fromarray(clear)))
    assert (pixels[:5] == 255).all() and "white" in notes[0]
    np.testing.assert_array_equal(pixels[5:], COLOUR[5:])


@pytest.mark.parametrize("colour_type,channels", [(0, None), (2, 3), (6, 4)])
def test_sixteen_bit_png_is_rounded_not_cut(colour_type: int, channels: int | None) -> None:
    shape = (20, 24) if channels is None else (20, 24, channels)
    values = np.random.default_rng(0).integers(0, 65536, shape)
    if channels == 4:
        values[..., 3] = 65535
    pixels, notes = decode_image(png16(values, colour_type))
    expected = np.rint(values / 257).astype(np.uint8)
    expected = np.repeat(expected[..., None], 3, -1) if channels is None else expected[..., :3]
    np.testing.assert_array_equal(pixels, expected)
    assert "16-bit" in notes[0]


def test_sixteen_bit_tiff_grey() -> None:
    values = np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16)
    pixels, _ = decode_image(encode(PIL.Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(pixels[..., 0], np.rint(values / 257).astype(np.uint8))


@pytest.mark.parametrize("turn", range(2, 9))
def test_exif_turned_upright(turn: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = turn
    pixels, notes = decode_image(encode(PIL.Image.fromarray(COLOUR), exif=exif))
    assert any("EXIF" in note for note in notes)
    expected = {
        2: COLOUR[:, ::-1],
        3: COLOUR[::-1, ::-1],
        4: COLOUR[::-1],
        5: COLOUR.swapaxes(0, 1),
        6: np.rot90(COLOUR, -1),
        7: COLOUR[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(COLOUR),
    }[turn]
    np.testing.assert_array_equal(pixels, expected)


def test_animation_takes_the_first_frame() -> None:
    frames = [PIL.Image.fromarray(np.full((20, 20), value, np.uint8)) for value in (10, 200)]
    pixels, notes = decode_image(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert "2 frames" in notes[0] and (pixels == 10).all()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
def test_truncated(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another library may have asked Pillow to be lenient; a data set must not be.
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = encode(PIL.Image.fromarray(noise), form)
    with pytest.raises(ImageFileError, match=r"truncated|corrupt"):
        decode_image(data[: len(data) * 2 // 3])


def test_corrupt() -> None:
    data = bytearray(encode(PIL.Image.fromarray(COLOUR)))
    data[data.index(b"IDAT") + 12] ^= 0xFF
    with pytest.raises(ImageFileError, match="corrupt"):
        decode_image(bytes(data))
    for junk in (
        b"not an image",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"\xff\xd8\xff\xe0" + b"\0" * 50,
        b"II*\0" + b"\xff" * 40,
    ):
        with pytest.raises(ImageFileError, match=r"corrupt|truncated"):
            decode_image(junk)


def test_tiny_float_and_bomb() -> None:
    with pytest.raises(ImageFileError, match="tiny: 32x24"):
        decode_image(encode(PIL.Image.fromarray(COLOUR)), min_size=25)
    with pytest.raises(ImageFileError, match="32-bit float"):
        decode_image(encode(PIL.Image.fromarray(RAMP.astype(np.float32)), "TIFF"))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    with pytest.raises(ImageFileError, match="decompression bomb"):
        decode_image(bomb)
