"""Image files of every kind, whole and broken."""

import contextlib
import dataclasses
import io
import pathlib
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from vaesr.files import decode_image
from vaesr.files.images import ImageFileError, Photo, fits, read_photo, write_photo
from vaesr.files.metadata import read_details
from vaesr.files.png16 import decode_png16, encode_png16


def pixels(channels: int, bits: int = 8, height: int = 13, width: int = 7) -> np.ndarray:
    kind = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(channels).integers(0, 2**bits, (height, width, channels)).astype(kind)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(13, 7), (1, 1), (3, 5)])
def test_png_keeps_mode_depth_pixels_and_profile(
    tmp_path: pathlib.Path, bits: int, channels: int, size: tuple[int, int]
) -> None:
    photo = Photo(pixels(channels, bits, *size), icc_profile=b"profile " * 40)
    write_photo(tmp_path / "ü 图.png", photo)
    again = read_photo(tmp_path / "ü 图.png")
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    assert again.pixels.dtype == photo.pixels.dtype and again.icc_profile == photo.icc_profile
    assert again.notes == ()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_our_16_bit_png_is_what_pillow_reads_in_8_bits(channels: int) -> None:
    values = pixels(channels, 16)
    shown = Image.open(io.BytesIO(encode_png16(values)))
    if channels == 1:
        np.testing.assert_array_equal(np.asarray(shown), values[..., 0])
    else:
        upper = np.asarray(shown.convert("LA") if channels == 2 else shown)
        np.testing.assert_array_equal(upper, values >> 8)


@pytest.mark.parametrize("filtering", range(5))
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_png_with_every_row_filter(filtering: int, channels: int) -> None:
    values = pixels(channels, 16)
    raw = np.frombuffer(values.astype(">u2").tobytes(), np.uint8).reshape(13, -1).astype(int)
    step, rows = 2 * channels, []
    for y, row in enumerate(raw):
        up = raw[y - 1] if y else np.zeros_like(row)
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), up[:-step]])
        near = left + up - corner
        paths = np.abs(np.stack([near - left, near - up, near - corner]))
        paeth = np.choose(paths.argmin(axis=0), [left, up, corner])
        guess = [0 * row, left, up, (left + up) // 2, paeth][filtering]
        rows.append(bytes([filtering]) + ((row - guess) % 256).astype(np.uint8).tobytes())
    file = encode_png16(values)
    body = zlib.compress(b"".join(rows))
    chunk = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    np.testing.assert_array_equal(decode_png16(file[:33] + chunk + file[-12:], Image), values)


def test_16_bit_grey_tiff(tmp_path: pathlib.Path) -> None:
    photo = Photo(pixels(1, 16))
    write_photo(tmp_path / "a.tif", photo)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.tif").pixels, photo.pixels)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("planar", [False, True])
def test_16_bit_colour_tiff(tmp_path: pathlib.Path, channels: int, planar: bool) -> None:
    import tifffile

    photo = Photo(pixels(channels, 16), b"profile")
    write_photo(tmp_path / "a.tif", photo)
    with Image.open(tmp_path / "a.tif") as shown:  # another reader agrees
        assert shown.mode == ("RGB" if channels == 3 else "RGBA") and shown.info["icc_profile"] == b"profile"
        np.testing.assert_array_equal(np.asarray(shown), photo.pixels >> 8)
    if planar:  # colours one after another, upside down by its tag
        tifffile.imwrite(
            tmp_path / "a.tif",
            np.moveaxis(photo.pixels, -1, 0),
            photometric="rgb",
            planarconfig="separate",
            extrasamples=["unassalpha"] * (channels - 3) or None,
            extratags=[(0x0112, 3, 1, 3, True)],
        )
    read = read_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(read.pixels, photo.pixels[::-1, ::-1] if planar else photo.pixels)
    assert read.pixels.dtype == np.uint16 and read.notes == ()
    assert read.icc_profile == (None if planar else b"profile")


def test_16_bit_colour_tiff_without_its_reader(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = Photo(pixels(3, 16))
    write_photo(tmp_path / "a.tif", photo)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    read = read_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(read.pixels, photo.pixels >> 8)
    assert "read as 8 bits" in read.notes[0]
    with pytest.raises(ImageFileError, match="needs tifffile"):
        write_photo(tmp_path / "b.tif", photo)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_exif_orientation_is_applied(tmp_path: pathlib.Path, orientation: int, bits: int) -> None:
    from PIL import ImageOps

    picture = Image.fromarray(pixels(3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    if bits == 16:  # the same picture with its EXIF chunk behind our header
        file, eight = encode_png16(pixels(3).astype(np.uint16) * 257), (tmp_path / "a.png").read_bytes()
        at = eight.index(b"eXIf") - 4
        length = 12 + struct.unpack(">I", eight[at : at + 4])[0]
        (tmp_path / "a.png").write_bytes(file[:33] + eight[at : at + length] + file[33:])
    read = read_photo(tmp_path / "a.png").pixels
    np.testing.assert_array_equal(read if bits == 8 else (read // 257).astype(np.uint8), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_is_turned_once(tmp_path: pathlib.Path, orientation: int, bits: int) -> None:
    import tifffile

    stored = pixels(3, bits)
    tags = [(0x0112, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", metadata=None, extratags=tags)
    exif, png = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray((stored >> (bits - 8)).astype(np.uint8)).save(png, "PNG", exif=exif)
    expected, _ = decode_image(png.getvalue())
    read = read_photo(tmp_path / "a.tif")  # Pillow turns it while loading, tifffile does not
    np.testing.assert_array_equal(read.pixels >> (bits - 8), expected)
    assert read.pixels.dtype == stored.dtype and read.notes == ()
    np.testing.assert_array_equal(decode_image((tmp_path / "a.tif").read_bytes())[0], expected)


def test_a_bank_refuses_what_a_photo_may_have(tmp_path: pathlib.Path) -> None:
    long, plain = io.BytesIO(), io.BytesIO()
    comment = PngImagePlugin.PngInfo()
    comment.add_text("Comment", "x" * 2**22, zip=True)
    Image.fromarray(pixels(3)).save(long, "PNG", pnginfo=comment)
    Image.fromarray(pixels(3)).save(plain, "PNG")
    for data in (long.getvalue(), plain.getvalue()[:-5]):  # a long comment; cut behind the pixels
        (tmp_path / "a.png").write_bytes(data)
        np.testing.assert_array_equal(read_photo(tmp_path / "a.png").pixels, pixels(3))
        with pytest.raises(ImageFileError, match="corrupt"):
            decode_image(data)


@pytest.mark.parametrize(
    "mode, expected",
    [("1", 1), ("L", 1), ("LA", 2), ("P", 3), ("CMYK", 3), ("YCbCr", 3), ("RGBA", 4)],
)
def test_modes(tmp_path: pathlib.Path, mode: str, expected: int) -> None:
    source = Image.fromarray(pixels(4, height=16, width=16)).convert("RGB")
    picture = source.convert(mode)
    name = {"CMYK": "a.jpg", "YCbCr": "a.jpg"}.get(mode, "a.png")
    picture.save(tmp_path / name)
    photo = read_photo(tmp_path / name)
    assert photo.pixels.shape == (16, 16, expected)
    assert ("CMYK" in str(photo.notes)) == (mode == "CMYK")
    assert ("palette" in str(photo.notes)) == (mode == "P")


def test_transparent_palette_and_animation(tmp_path: pathlib.Path) -> None:
    picture = Image.fromarray(pixels(1, height=8, width=8)[..., 0] % 4, mode=None).convert("P")
    picture.save(tmp_path / "a.png", transparency=2)
    photo = read_photo(tmp_path / "a.png")
    assert photo.pixels.shape == (8, 8, 4) and 0 < (photo.pixels[..., 3] == 0).mean() < 1
    picture.save(tmp_path / "a.gif", save_all=True, append_images=[picture.rotate(90)])
    assert "2 frames" in str(read_photo(tmp_path / "a.gif").notes)


def test_cmyk_with_a_broken_profile_is_still_read(tmp_path: pathlib.Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", icc_profile=b"nonsense", quality=100)
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.icc_profile is None and photo.pixels[0, 0, 0] > 200 and photo.pixels[0, 0, 1] < 60


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a16.png", "a.webp", "a.tif"])
def test_damaged_files_say_so(tmp_path: pathlib.Path, name: str) -> None:
    write_photo(tmp_path / name, Photo(pixels(3, 16 if "16" in name else 8, 64, 64)))
    whole = (tmp_path / name).read_bytes()
    for length in (0, 3, 20, 30, 60, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(ImageFileError):
            read_photo(tmp_path / name)
    generator = np.random.default_rng(0)
    for _ in range(30):  # noise inside a whole file: an error or a picture, never anything else
        broken = bytearray(whole)
        for at in generator.integers(8, len(whole), 5):
            broken[at] = generator.integers(256)
        (tmp_path / name).write_bytes(broken)
        with contextlib.suppress(ImageFileError):
            read_photo(tmp_path / name)


def test_no_image_no_file_no_folder(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    for path, words in (
        (tmp_path / "a.png", "not an image"),
        (tmp_path / "b.png", "No such"),
        (tmp_path, "director"),
    ):
        with pytest.raises(ImageFileError, match=words):
            read_photo(path)


def test_wrong_extension_is_read_by_content(tmp_path: pathlib.Path) -> None:
    Image.fromarray(pixels(3)).save(tmp_path / "a.jpg", format="PNG")
    np.testing.assert_array_equal(read_photo(tmp_path / "a.jpg").pixels, pixels(3))


def test_float_tiff_is_refused_with_a_reason(tmp_path: pathlib.Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageFileError, match="float samples"):
        read_photo(tmp_path / "a.tif")


def test_formats_that_cannot_hold_an_image(tmp_path: pathlib.Path) -> None:
    assert fits(".png", 4, 16) is None and fits(".webp", 4, 8) is None and fits(".tif", 1, 16) is None
    for extension, channels, bits in ((".jpg", 4, 8), (".webp", 3, 16), (".tif", 2, 16)):
        assert fits(extension, channels, bits)
        with pytest.raises(ImageFileError, match="write PNG instead"):
            write_photo(tmp_path / f"a{extension}", Photo(pixels(channels, bits)))
    with pytest.raises(ValueError, match="extension must be"):
        write_photo(tmp_path / "a.bmp", Photo(pixels(3)))
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageFileError, match="cannot write"):
        write_photo(tmp_path / "file" / "a.png", Photo(pixels(3)))
    assert {p.name for p in tmp_path.iterdir()} == {"file"}


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="r"><rdf:Description tiff:Orientation="6" '
    b'exif:GPSLatitude="48,8N" dc:title="hi"><exif:GPSLongitude>11E</exif:GPSLongitude></rdf:Description>'
    b"</rdf:RDF></x:xmpmeta>"
)


def described(path: pathlib.Path) -> None:
    """A photo as a camera makes it, lying on its side."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112] = "Maker", "One", 6
    exif.get_ifd(0x8769).update({0x9003: "2026:01:02 03:04:05", 0xA002: 6, 0xA003: 4, 0x829A: 0.005})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 30.0)})
    options: dict[str, object] = {"exif": exif, "xmp": XMP, "dpi": (300, 300)}
    if path.suffix == ".png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path, **options)


@pytest.mark.parametrize("bits", (8, 16))
@pytest.mark.parametrize("ending", (".jpg", ".png", ".webp", ".tif"))
@pytest.mark.parametrize("source", (".jpg", ".png", ".webp", ".tif"))
def test_what_a_camera_wrote_is_kept(tmp_path, source, ending, bits):
    if bits == 16 and ending in (".jpg", ".webp"):
        return
    path = tmp_path / f"a{source}"
    if source == ".tif":  # Pillow writes no directories within into such files
        described(tmp_path / "a.jpg")
        write_photo(path, read_photo(tmp_path / "a.jpg"))
    else:
        described(path)
    for keep in ("all", "no-gps", "none"):
        photo = read_photo(path, metadata=keep)
        larger = np.zeros((12, 8, 3), np.uint8 if bits == 8 else np.uint16)
        write_photo(tmp_path / f"b{ending}", dataclasses.replace(photo, pixels=larger))
        with Image.open(tmp_path / f"b{ending}") as image:
            exif = image.getexif()
            details, place, xmp = exif.get_ifd(0x8769), dict(exif.get_ifd(0x8825)), image.info.get("xmp", b"")
            dpi = image.info.get("dpi", (72, 72))
        if keep == "none":
            assert not details and not place and not xmp and 0x010F not in exif
            continue
        assert (exif[0x010F], exif[0x0110], exif.get(0x0112, 1)) == ("Maker", "One", 1)
        assert details[0x9003] == "2026:01:02 03:04:05" and details[0x829A] == pytest.approx(0.005)
        assert (details[0xA002], details[0xA003]) == (8, 12)
        assert b"hi" in xmp and b'Orientation="1"' in xmp
        assert bool(place) == (b"GPS" in xmp) == (keep == "all")
        if keep == "all":
            assert place == {1: "N", 2: (48.0, 8.0, 30.0)}
        if ".webp" not in (source, ending):
            assert dpi == pytest.approx((300, 300), abs=0.1)
        back = read_photo(tmp_path / f"b{ending}")
        assert back.pixels.shape == (12, 8, 3) and back.pixels.dtype == larger.dtype


@pytest.mark.parametrize("where", range(0, 200, 7))
def test_broken_exif_loses_no_picture(tmp_path, where):
    described(tmp_path / "a.jpg")
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    start = data.index(b"Exif\0\0") + 6
    data[start + where] ^= 0xFF
    (tmp_path / "b.jpg").write_bytes(data)
    photo = read_photo(tmp_path / "b.jpg")
    for ending in (".jpg", ".png", ".tif"):
        write_photo(tmp_path / f"c{ending}", photo)
        assert read_photo(tmp_path / f"c{ending}").pixels.shape == photo.pixels.shape


def test_the_place_by_other_names_is_left_out(tmp_path):
    """GeoTIFF's tags, what a drone writes, and what only the camera's maker can read."""
    exif = Image.Exif()
    exif[0x0110], exif[34737], exif[33922] = "One", "WGS 84 / 48N 11E", (0.0, 0.0, 0.0, 11.5, 48.1, 0.0)
    exif.get_ifd(0x8769).update({0x927C: b"maker: 48.1 11.5", 0x9003: "2026:01:02 03:04:05"})
    drone = b'<x:xmpmeta><rdf:Description drone-dji:GpsLatitude="48.1" tiff:Orientation="1"/></x:xmpmeta>'
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif, xmp=drone)
    for ending in (".jpg", ".png", ".tif", ".webp"):
        write_photo(tmp_path / f"b{ending}", read_photo(tmp_path / "a.jpg", metadata="no-gps"))
        content = (tmp_path / f"b{ending}").read_bytes()
        assert b"48N" not in content and b"48.1" not in content and b"11.5" not in content
        with Image.open(tmp_path / f"b{ending}") as image:
            assert image.getexif()[0x0110] == "One"
            assert image.getexif().get_ifd(0x8769)[0x9003].startswith("2026")
    kept = read_photo(tmp_path / "a.jpg").details
    assert b"maker" in kept.exif and b"GpsLatitude" in kept.xmp and b"48N" not in kept.exif


@pytest.mark.parametrize("dpi", ((float("nan"), 300), (4294967295, 300), (0, 0), (300, float("inf"))))
def test_a_resolution_that_is_none_loses_no_picture(tmp_path, dpi):
    for ending in (".jpg", ".png", ".tif"):
        photo = Photo(np.zeros((4, 6, 3), np.uint8), details=read_details(_Info(dpi), None, "none"))
        write_photo(tmp_path / f"a{ending}", photo)
        assert read_photo(tmp_path / f"a{ending}").pixels.shape == (4, 6, 3)


class _Info:
    def __init__(self, dpi):
        self.info = {"dpi": dpi}


def test_a_tiff_of_more_numbers_than_pixels_stays_small(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    own = [(65_000, 4, 1, 100_000_000, True)]
    tifffile.imwrite(
        buffer, np.zeros((16, 16, 3), np.uint16), photometric="rgb", metadata=None, extratags=own
    )
    depth = struct.pack("<H", 32_997)  # ImageDepth, which tifffile writes of its own accord alone
    (tmp_path / "a.tif").write_bytes(buffer.getvalue().replace(struct.pack("<H", 65_000), depth))
    tracemalloc.start()
    try:
        photo = read_photo(tmp_path / "a.tif")
        assert photo.pixels.shape[:2] == (16, 16) and "read as 8 bits" in photo.notes[0]
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_sides_that_a_format_does_not_hold():
    assert fits(".webp", 3, 8, 16_383) is None and fits(".png", 3, 8, 10**6) is None
    assert "16383 pixels a side" in fits(".webp", 3, 8, 16_384)
    assert "65535 pixels a side" in fits(".jpg", 3, 8, 70_000)
