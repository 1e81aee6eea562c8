"""The `vaesr` command: what users type, and what they get wrong."""

import dataclasses
import errno
import io
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from written_runs import write_run

from vaesr.app import batch, commands, evaluate
from vaesr.app.cli import main
from vaesr.app.status import Status
from vaesr.files.images import Photo, read_photo, write_photo
from vaesr.inference import latents, load_network, networks, upscale
from vaesr.models.edsr import EDSR
from vaesr.pretrained import PUBLISHED, write_network
from vaesr.runs import load_run


def pixels(channels: int, bits: int = 8, height: int = 9, width: int = 12) -> np.ndarray:
    kind = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(channels).integers(0, 2**bits, (height, width, channels)).astype(kind)


def fill(folder: pathlib.Path) -> None:
    """A folder as users have them."""
    folder.mkdir(exist_ok=True)
    for name, channels, bits in (
        ("grey", 1, 8),
        ("ga", 2, 8),
        ("rgb", 3, 8),
        ("rgba", 4, 8),
        ("deep", 3, 16),
    ):
        write_photo(folder / f"{name}.png", Photo(pixels(channels, bits)))
    write_photo(folder / "deep grey.png", Photo(pixels(1, 16)))
    write_photo(folder / "ünï 图.jpg", Photo(pixels(3), icc_profile=b"profile"))
    write_photo(folder / "pixel.webp", Photo(pixels(3, 8, 1, 1)))
    Image.fromarray(pixels(3)).convert("P").save(folder / "palette.gif")
    Image.fromarray(pixels(3)).convert("CMYK").save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(3)).save(folder / "turned.jpg", exif=exif)
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "rgb.png").read_bytes()[:150])
    (folder / "words.jpg").write_text("no image")
    (folder / "notes.txt").write_text("no image either")


@pytest.mark.slow
def test_a_folder_with_everything(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "in")
    out = tmp_path / "new" / "out"
    assert main(["upscale", "--run", str(edsr_folder), "-i", str(tmp_path / "in"), "-o", str(out)]) == 1
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert lines[0] == "vaesr upscale: 3 of 14 files failed:" and len(lines) == 4
    assert (
        "empty.png: is empty" in said.err
        and "cut.png: is truncated" in said.err
        and "words.jpg: is not" in said.err
    )
    assert {p.name for p in out.iterdir()} == {
        *("grey_out.png", "ga_out.png", "rgb_out.png", "rgba_out.png", "deep_out.png", "deep grey_out.png"),
        *("ünï 图_out.jpg", "pixel_out.webp", "palette_out.png", "cmyk_out.jpg", "turned_out.jpg"),
    }
    for name, channels, kind in (("grey", 1, np.uint8), ("ga", 2, np.uint8), ("rgba", 4, np.uint8)):
        result = read_photo(out / f"{name}_out.png").pixels
        assert result.shape == (18, 24, channels) and result.dtype == kind
    assert read_photo(out / "deep_out.png").pixels.dtype == np.uint16
    assert read_photo(out / "deep grey_out.png").pixels.shape == (18, 24, 1)
    assert read_photo(out / "turned_out.jpg").pixels.shape == (24, 18, 3)
    assert read_photo(out / "pixel_out.webp").pixels.shape == (2, 2, 3)
    assert read_photo(out / "ünï 图_out.jpg").icc_profile == b"profile"
    assert "CMYK converted to RGB" in said.out and len(said.out.splitlines()) == 11

    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    again = [
        "upscale",
        "--run",
        str(edsr_folder),
        "-i",
        str(tmp_path / "in"),
        "-o",
        str(out),
        "--skip-existing",
    ]
    assert main(again) == 1
    assert {p: p.stat().st_mtime_ns for p in out.iterdir()} == before


@pytest.mark.slow
def test_one_file_to_one_name(edsr_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    write_photo(tmp_path / "a.png", Photo(pixels(3)))
    base = ["upscale", "--run", str(edsr_folder), "-i", str(tmp_path / "a.png"), "-o"]
    assert (
        main([*base, str(tmp_path / "b.png"), "-s", "3", "--tile", "8", "--self-ensemble", "--fp32", "-q"])
        == 0
    )
    assert read_photo(tmp_path / "b.png").pixels.shape == (27, 36, 3)
    assert main([*base, str(tmp_path / "c.png"), "--tile", "0"]) == 0
    assert main([*base, str(tmp_path / "d.png"), "--tile", "4"]) == 0
    np.testing.assert_array_equal(
        read_photo(tmp_path / "c.png").pixels, read_photo(tmp_path / "d.png").pixels
    )


@pytest.mark.slow
def test_a_network_of_several_scales(
    mdsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photo(tmp_path / "a.png", Photo(pixels(3)))
    line = ["upscale", "--run", str(mdsr_folder), "-i", str(tmp_path / "a.png"), "-o"]
    run = load_run(mdsr_folder)
    for options, scale in ((["-s", "2"], 2), (["-s", "3"], 3), (["-s", "4"], 4), ([], 4)):
        assert main([*line, str(tmp_path / f"{scale}.png"), *options]) == 0
        image = read_photo(tmp_path / f"{scale}.png").pixels
        expected = np.asarray(run.apply(pixels(3)[None].astype(np.float32) / 255, scale=scale)[0])
        assert image.shape == (9 * scale, 12 * scale, 3)
        np.testing.assert_allclose(image, 255 * np.clip(expected, 0, 1), atol=0.51)
    capsys.readouterr()
    for scale in ("5", "2.5"):
        assert main([*line, str(tmp_path / "no.png"), "-s", scale]) == 2
        said = capsys.readouterr().err
        assert f"trained for scale 2, 3 or 4, got {scale}; choose one" in said and said.count("\n") == 1
    assert not (tmp_path / "no.png").exists()


def test_transparent_image_to_jpeg_name_fails_and_leaves_nothing(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photo(tmp_path / "a.png", Photo(pixels(4)))
    base = ["upscale", "--run", str(edsr_folder), "-i", str(tmp_path / "a.png"), "-o"]
    assert main([*base, str(tmp_path / "b.jpg")]) == 2
    assert "JPEG cannot hold transparency" in capsys.readouterr().err
    assert main([*base, str(tmp_path / "out"), "--ext", "jpg"]) == 0
    assert "written as PNG" in capsys.readouterr().out
    assert {p.name for p in tmp_path.rglob("*.*")} == {"a.png", "a_out.png"}


def test_plans_without_collisions(tmp_path: pathlib.Path) -> None:
    for name in ("a.png", "a.jpg", "B.png", "b.PNG"):
        (tmp_path / name).write_bytes(b"")
    targets = [
        job.target.name for job in batch.plan_jobs(str(tmp_path), str(tmp_path / "o"), extension="png")
    ]
    assert (
        len({t.lower() for t in targets}) == 4 and "a_png_out.png" in targets and "a_jpg_out.png" in targets
    )
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.png").write_bytes(b"")
    jobs = batch.plan_jobs(str(tmp_path / "**" / "same.png"), str(tmp_path / "o"))
    assert len({job.target for job in jobs}) == 2
    # A second run over one's own results
    (tmp_path / "x" / "same_out.png").write_bytes(b"")
    assert [j.source.name for j in batch.plan_jobs(str(tmp_path / "x"), str(tmp_path / "x"))] == ["same.png"]
    with pytest.raises(batch.UsageError, match="overwrite an input"):
        batch.plan_jobs(str(tmp_path / "x"), str(tmp_path / "x"), suffix="")


def test_several_inputs_and_folders_within_folders(tmp_path: pathlib.Path) -> None:
    root, out = tmp_path / "in", tmp_path / "in" / "out"
    for name in ("a.png", "b.png", "deep/a.png", "deep/er/c.png", ".hidden/d.png", "out/deep/a_out.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    names = [str(root / "a.png"), str(root / "b.png"), str(root / "a.png"), str(root / "deep")]
    jobs = batch.plan_jobs(names, str(tmp_path / "o.v2") + "/")
    assert [job.source.relative_to(root).as_posix() for job in jobs] == ["a.png", "b.png", "deep/a.png"]
    assert len({job.target for job in jobs}) == 3
    jobs = batch.plan_jobs(str(root), str(out), recursive=True)  # what lies there already is no input
    assert {job.target.relative_to(out).as_posix() for job in jobs} == {
        "a_out.png", "b_out.png", "deep/a_out.png", "deep/er/c_out.png",
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["-i", "IN/none.png", "-o", "IN/out"], "there is no file or folder"),
        (["-i", "IN/*.tiff", "-o", "IN/out"], "no file matches"),
        (["-i", "IN/sub", "-o", "IN/out"], "holds no image files"),
        (["-i", "IN", "-o", "IN/one.png"], "give a folder"),
        (["-i", "IN/a.png", "-o", "IN/notes.txt"], "neither an image file name nor a folder"),
        (["-i", "IN/a.png", "-o", "IN/a.png"], "overwrite an input"),
        (["-i", "IN/a.png", "-o", "IN/x.avif"], "end the name of a new folder in /"),
        (["IN/a.png", "IN/none.png", "-o", "IN/out"], "there is no file or folder"),
        (["-i", "IN/a.png", "-o", "IN/b.png", "--ext", "png"], "leave --ext out"),
        (["-i", "IN", "-o", "IN/out", "--suffix", "x/y"], "path separator"),
        (["-i", "IN", "-o", "IN/out", "--run", "IN/norun"], "no run folder"),
        (["-i", "IN", "-o", "IN/out", "--run", "IN"], "config.json"),
        (["-i", "IN", "-o", "IN/out", "--run", "VAE"], "needs a super-resolution network"),
    ],
)
def test_usage_errors_are_one_line(
    edsr_folder: pathlib.Path,
    vae_folder: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    write_photo(tmp_path / "a.png", Photo(pixels(3)))
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "sub").mkdir()
    line = [a.replace("IN", str(tmp_path)).replace("VAE", str(vae_folder)) for a in arguments]
    assert main(["upscale", "--run", str(edsr_folder), *line]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and said.out == ""
    assert not list(tmp_path.rglob("*_out.png"))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "COMMAND"),
        (["enhance"], "invalid choice"),
        (["upscale", "-i", "x", "--fp16", "--fp32"], "not allowed with"),
        (["upscale", "x", "-g", "0,0"], "numbers of GPUs"),
        (["upscale", "--run", "r", "-i", "x", "-o", "y", "--tile", "-3"], "at least 0"),
        (["upscale", "--run", "r", "-i", "x", "-o", "y", "-s", "inf"], "above 0"),
        (["upscale", "x", "--crf", "99"], "from 0 to 51"),
        (["upscale", "x", "-dn", "1.5"], "in [0, 1]"),
        (["export", "r", "-o", "y.onnx", "--size", "12"], "WIDTHxHEIGHT"),
        (["upscale", "--run", "r", "-i", "x", "-o", "y", "--ext", "bmp"], "invalid choice"),
        (["sample", "--run", "r", "-o", "y", "-n", "0"], "from 1 to 10 million"),
        (["encode", "--run", "r", "-o", "y"], "required"),
        (["encode", "--run", "r", "-o", "y", "-i", "a", "--data", "b"], "not allowed with"),
    ],
)
def test_parser_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and words in said and said.count("\n") == 1


def test_unwritable_output(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photo(tmp_path / "a.png", Photo(pixels(3)))
    (tmp_path / "file").write_text("")
    line = [
        "upscale",
        "--run",
        str(edsr_folder),
        "-i",
        str(tmp_path / "a.png"),
        "-o",
        str(tmp_path / "file" / "out"),
    ]
    assert main(line) == 2
    assert "can't be a folder of results" in capsys.readouterr().err


@pytest.mark.slow
def test_sample(vae_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run = ["sample", "--run", str(vae_folder)]
    assert main([*run, "-n", "5", "-o", str(tmp_path / "s.png"), "--npy", str(tmp_path / "s.npy")]) == 0
    images = np.load(tmp_path / "s.npy")
    assert images.shape == (5, 8, 8, 1) and images.min() >= 0 and images.max() <= 1
    with Image.open(tmp_path / "s.png") as grid:
        assert grid.width > 3 * 8
    more = latents.sample(load_run(vae_folder), 9, batch_size=2)
    np.testing.assert_allclose(more[:5], images, atol=1e-6)
    cold = latents.sample(load_run(vae_folder), 3, temperature=0.0)
    np.testing.assert_allclose(cold[0], cold[2], atol=1e-6)
    assert main([*run, "-o", str(tmp_path / "s.txt")]) == 2
    assert main(["sample", "--run", str(vae_folder), "-o", str(tmp_path)]) == 2


def test_encode_files_and_decode(
    vae_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for index, (channels, bits) in enumerate(((1, 8), (3, 8), (4, 8), (1, 16))):
        write_photo(tmp_path / "in" / f"{index}.png", Photo(pixels(channels, bits, 8, 8)))
    write_photo(tmp_path / "in" / "9 large.png", Photo(pixels(1, 8, 12, 9)))
    line = ["encode", "--run", str(vae_folder), "-i", str(tmp_path / "in"), "-o", str(tmp_path / "c.npz")]
    assert main(line) == 1
    assert "is 9x12, the model takes 8x8; add --resize" in capsys.readouterr().err
    assert main([*line, "--resize"]) == 0
    with np.load(tmp_path / "c.npz") as codes:
        assert codes["mean_q"].shape == codes["log_var_q"].shape == (5, 3)
        assert codes["name"][0].endswith("0.png") and "label" not in codes
    back = ["encode", "--run", str(vae_folder), "--decode", str(tmp_path / "c.npz"), "-o"]
    assert main([*back, str(tmp_path / "r.npy")]) == 0 and main([*back, str(tmp_path / "r.png")]) == 0
    assert np.load(tmp_path / "r.npy").shape == (5, 8, 8, 1)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "text.npz").write_text("text")
    for name in ("other.npz", "text.npz", "none.npz"):
        assert main([*back[:-2], str(tmp_path / name), "-o", str(tmp_path / "x.png")]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_encode_a_data_source(
    vae_folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    np.save(tmp_path / "train.npy", images)
    line = ["encode", "--run", str(vae_folder), "--data", f"npy:{tmp_path / 'train.npy'}", "--split", "all"]
    assert main([*line, "-o", str(tmp_path / "c.npz")]) == 0
    with np.load(tmp_path / "c.npz") as codes:
        mean_q, _ = latents.encode(load_run(vae_folder), images)
        np.testing.assert_allclose(codes["mean_q"], mean_q, atol=1e-5)
    assert main([*line[:-1], "nonsense", "-o", str(tmp_path / "d.npz")]) == 2


def test_latents_refuse_other_models(edsr_folder: pathlib.Path, vae_folder: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="needs a VAE"):
        latents.sample(load_run(edsr_folder), 1)
    with pytest.raises(ValueError, match="codes must be"):
        latents.decode(load_run(vae_folder), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="images must be"):
        latents.encode(load_run(vae_folder), np.zeros((2, 4, 4, 1)))


def test_options_that_do_not_exist_name_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for words, hint in (
        (["--outscael", "2"], "did you mean --outscale?"),
        (["--tiel=3"], "did you mean --tile?"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["upscale", "a.png", *words])
        said = capsys.readouterr().err
        assert stop.value.code == 2 and hint in said and "see vaesr upscale --help" in said


def test_help_does_not_wait_for_jax() -> None:
    code = "import sys, vaesr.app.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print('jax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False" and "upscale" in out and "evaluate" in out


@pytest.mark.slow
def test_noise_is_kept_as_far_as_wanted(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vaesr.models.srvgg import SRVGGNetCompact
    from vaesr.pretrained import write_checkpoint

    model = SRVGGNetCompact(scale=2, channels=4, convs=2)
    for name, seed in (("tiny-x4v3", 0), ("tiny-wdn-x4v3", 1), ("else", 2)):
        params = model.init(jax.random.key(seed), jnp.zeros((1, 8, 8, 3)))["params"]
        path = tmp_path / f"{name}.pth"
        path.write_bytes(write_checkpoint(path, write_network(model, params, "srvgg")))
    write_photo(tmp_path / "a.png", Photo(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)))

    def result(*flags: str) -> np.ndarray:
        line = ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), *flags]
        assert main(line) == 0
        return read_photo(tmp_path / "b.png").pixels

    first, keeps = str(tmp_path / "tiny-x4v3.pth"), str(tmp_path / "tiny-wdn-x4v3.pth")
    ends = [result("--model-path", path) for path in (first, keeps)]
    assert (ends[0] != ends[1]).any()
    np.testing.assert_array_equal(result("--model_path", first, "-dn", "1"), ends[0])
    np.testing.assert_array_equal(result("--model_path", first, "-dn", "0"), ends[1])
    given = result("--model-path", keeps, "--denoise-path", first, "--denoise_strength", "0.25")
    np.testing.assert_array_equal(result("--model-path", first, "-dn", "0.75"), given)
    # A quarter of the one network's weights is no quarter of its picture: the mix is the weights'.
    mixed = load_network(first)
    half = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, mixed.params, load_network(keeps).params)
    photo = read_photo(tmp_path / "a.png").pixels
    found = upscale(dataclasses.replace(mixed, params=half, _compiled={}), photo)
    assert np.abs(found.astype(int) - given.astype(int)).max() <= 1
    capsys.readouterr()
    for flags, words in (
        (["-dn", "0.5"], "give --model-path"),
        (["-dn", "0.5", "--model-path", str(tmp_path / "else.pth")], "-wdn"),
        (["-dn", "0.5", "--denoise-path", str(tmp_path / "no.pth"), "--model-path", first], "no.pth"),
    ):
        assert main(["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "c.png"), *flags]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("word", ["network", "realesrgan"])
def test_the_network_enlarges_transparency(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, word: str
) -> None:
    photo = Photo(pixels(4))
    write_photo(tmp_path / "a.png", photo)
    line = [
        "upscale",
        "-i",
        str(tmp_path / "a.png"),
        "-o",
        str(tmp_path / "b.png"),
        "--run",
        str(edsr_folder),
    ]
    assert main([*line, "--alpha_upsampler", word]) == 0
    found = read_photo(tmp_path / "b.png").pixels
    np.testing.assert_array_equal(found, upscale(load_run(edsr_folder), photo.pixels, alpha="network"))
    assert (found != upscale(load_run(edsr_folder), photo.pixels)).any()


def test_formats_that_do_not_hold_the_result_are_found_out_before(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photo(tmp_path / "wide.webp", Photo(np.zeros((1, 8200, 3), np.uint8)))
    line = ["upscale", "--run", str(edsr_folder), str(tmp_path / "wide.webp"), "-o"]
    assert main([*line, str(tmp_path / "b.webp")]) == 2
    assert "WEBP holds at most 16383 pixels a side, the image has 16400" in capsys.readouterr().err
    assert main([*line, str(tmp_path / "out")]) == 0
    assert "written as PNG" in capsys.readouterr().out
    assert read_photo(tmp_path / "out" / "wide_out.png").pixels.shape == (2, 16400, 3)


def test_gigapixels_are_asked_about(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photo(tmp_path / "a.png", Photo(pixels(3)))
    for scale, words in (
        ("9000", "108000x81000, 8.7 gigapixels (24 GiB of memory)"),
        ("1e200", "gigapixels"),
    ):
        assert main(["upscale", "--run", str(edsr_folder), str(tmp_path / "a.png"), "-s", scale]) == 2
        said = capsys.readouterr().err
        assert words in said and "--yes" in said and said.count("\n") == 1


def test_who_made_the_weights_is_told_once(
    edsr_folder: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))
    write_photo(tmp_path / "a.png", Photo(pixels(3)))
    (tmp_path / "models").mkdir()
    assert main(["convert", str(edsr_folder), "-o", str(tmp_path / "models" / "small.pth")]) == 0
    capsys.readouterr()
    line = [
        "upscale",
        str(tmp_path / "a.png"),
        "-m",
        str(tmp_path / "models"),
        "-n",
        "small",
        "-g",
        "0",
        "--fp16",
    ]
    assert main([*line, "-f", "webp", "-x", "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "small.pth: EDSR" in said.out and (tmp_path / "out" / "a_out.webp").exists()
    assert "finds no GPU here" in said.err or jax.default_backend() != "cpu"
    assert main([*line, "-o", str(tmp_path / "out")]) == 0
    assert "small.pth" not in capsys.readouterr().out
    assert main([*line[:3], str(tmp_path / "models"), "-n", "large"]) == 2
    assert "holds no large.param, .pth" in capsys.readouterr().err


def test_all_that_is_an_image_counts_whatever_it_is_called(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    image = Image.fromarray(pixels(3))
    image.save(folder / "no ending", "PNG")
    image.save(folder / "a.tga")
    image.save(folder / "a.ico", sizes=[(8, 8)])
    image.save(folder / "a.from_a_camera", "JPEG")
    (folder / "notes.txt").write_text("PNG")
    (folder / "more.dat").write_bytes(b"\x00" * 99)
    (folder / "a.heic").write_bytes(b"\x00\x00\x00\x18ftypheic")
    assert main(["upscale", "--run", str(edsr_folder), str(folder), "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 4 and "1 of 5 files failed" in said.err and "a.heic: " in said.err
    assert "notes" not in said.out + said.err and "more" not in said.out + said.err


def test_results_within_the_folder_of_the_photos(edsr_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b_out.png"):
        write_photo(tmp_path / "in" / name, Photo(pixels(3)))
    line = ["upscale", "--run", str(edsr_folder), str(tmp_path / "in"), "--recursive", "-q"]
    for _ in range(2):  # the second time finds the results of the first, and leaves them
        assert main([*line, "-o", str(tmp_path / "in" / "large")]) == 0
        found = sorted(str(path.relative_to(tmp_path / "in")) for path in tmp_path.rglob("*.png"))
        assert found == ["a.png", "deep/b_out.png", "large/a_out.png", "large/deep/b_out_out.png"]
    assert main([*line, "-o", str(tmp_path / "in")]) == 0
    assert (tmp_path / "in" / "a_out.png").exists()
    explicit = [str(tmp_path / "in" / "deep" / "b_out.png"), "-o", str(tmp_path / "in" / "deep")]
    assert main(["upscale", "--run", str(edsr_folder), *explicit]) == 0
    assert (tmp_path / "in" / "deep" / "b_out_out.png").exists()


def test_a_name_that_the_terminal_does_not_know(edsr_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    write_photo(tmp_path / name, Photo(pixels(3)))
    write_photo(tmp_path / "z.png", Photo(pixels(3)))
    command = [sys.executable, "-m", "vaesr", "upscale", "--run", str(edsr_folder), str(tmp_path)]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([*command, "-o", str(tmp_path / "out")], capture_output=True, env=strict)
    assert done.returncode == 0 and len(list((tmp_path / "out").iterdir())) == 2, done.stderr


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_places_that_cannot_be_written_are_refused_before_anything_is_computed(
    code: int, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photo(tmp_path / "a.png", Photo(pixels(3)))

    def refuse(**_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(commands, "load_network", lambda *_, **__: pytest.fail("the network was read"))
    monkeypatch.setattr(evaluate, "measure_items", lambda *_, **__: pytest.fail("something was measured"))
    out = tmp_path / "new" / "out"
    for line in (["upscale", str(tmp_path / "a.png")], ["evaluate", "-i", str(tmp_path / "a.png")]):
        assert main([*line, "-o", str(out)]) == 2
        said = capsys.readouterr().err
        assert f"-o: {out} can't be written: {os.strerror(code)}" in said and said.count("\n") == 1
    assert not out.parent.exists()


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".tif"])
def test_what_a_camera_wrote_is_in_the_result(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, ending: str
) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "One"
    exif.get_ifd(0x8769).update({0x9003: "2026:01:02 03:04:05", 0xA002: 12, 0xA003: 9})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 30.0)})
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="r"/></x:xmpmeta>'
    Image.fromarray(pixels(3)).save(tmp_path / "a.jpg", exif=exif, xmp=xmp, dpi=(300, 300))
    result = tmp_path / f"b{ending}"
    line = ["upscale", "--run", str(edsr_folder), str(tmp_path / "a.jpg"), "-o", str(result)]
    assert main(line) == 0
    with Image.open(result) as image:
        found = image.getexif()
        assert image.size == (24, 18) and (found[0x010F], found[0x0110]) == ("Maker", "One")
        details, place = found.get_ifd(0x8769), found.get_ifd(0x8825)
        assert (details[0x9003], details[0xA002], details[0xA003]) == ("2026:01:02 03:04:05", 24, 18)
        assert dict(place) == {1: "N", 2: (48.0, 8.0, 30.0)}
        assert image.info["xmp"] == xmp
        if ending != ".webp":  # which holds no resolution
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_avif_is_done_or_named(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.init()
    known = "AVIF" in Image.SAVE
    if known:
        Image.fromarray(pixels(3)).save(folder / "a.avif")
    (folder / "broken.avif").write_bytes(b"\x00\x00\x00\x18ftypavif" + bytes(20))
    assert main(["upscale", "--run", str(edsr_folder), str(folder), "-o", str(tmp_path / "out")]) == 1
    assert f"{folder / 'broken.avif'}: " in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").glob("*")] == ["a_out.png"] * known


@pytest.mark.parametrize(("words", "code"), [("y\n", 0), ("YES\n", 0), ("n\n", 2), ("\n", 2), ("", 2)])
def test_whoever_sits_at_a_terminal_is_asked(
    edsr_folder: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    code: int,
) -> None:
    monkeypatch.setattr(batch, "_MOST_PIXELS", 400)  # of 18 x 24
    answer = io.StringIO(words)
    monkeypatch.setattr(answer, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", answer)
    write_photo(tmp_path / "a.png", Photo(pixels(3)))
    line = ["upscale", "-q", "--run", str(edsr_folder), str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    assert main(line) == code
    said = capsys.readouterr()
    assert "a.png becomes 24x18" in said.out and "Go on? [y/N]" in said.out
    assert said.err == ("" if code == 0 else "vaesr upscale: nothing was done\n")
    assert (tmp_path / "out").exists() == (code == 0)


def test_yes_is_not_asked(
    edsr_folder: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch, "_MOST_PIXELS", 400)
    write_photo(tmp_path / "a.png", Photo(pixels(3)))
    line = ["upscale", "--run", str(edsr_folder), str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    assert main([*line, "--yes"]) == 0
    assert "Go on" not in capsys.readouterr().out and (tmp_path / "out" / "a_out.png").exists()


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("-1", {"jax_platforms": "cpu"}),
        ("2", {"jax_cuda_visible_devices": "2", "jax_rocm_visible_devices": "2"}),
        ("0,3", {"jax_cuda_visible_devices": "0,3", "jax_rocm_visible_devices": "0,3"}),
        (None, {}),
    ],
)
def test_devices_are_chosen(
    edsr_folder: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    word: str | None,
    wanted: dict[str, str],
) -> None:
    seen: dict[str, str] = {}
    monkeypatch.setattr(jax.config, "update", seen.__setitem__)
    write_photo(tmp_path / "a.png", Photo(pixels(3)))
    line = ["upscale", "--run", str(edsr_folder), str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png")]
    assert main([*line, *(["-g", word] if word else [])]) == 0
    assert {name: value for name, value in seen.items() if "visible" in name or "platforms" in name} == wanted


@pytest.mark.parametrize(
    ("backend", "flag", "kind"),
    [
        ("gpu", "--fp16", jnp.float16),
        ("gpu", "--fp32", jnp.float32),
        ("gpu", "-q", jnp.bfloat16),  # its own
        ("cpu", "--fp16", jnp.float32),
    ],
)
def test_precision_is_what_was_asked_for_off_the_cpu(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, backend: str, flag: str, kind: Any
) -> None:
    model = EDSR(scale=2, channels=4, blocks=1, dtype=jnp.bfloat16)
    run = write_run(tmp_path / "run", "edsr", model, jnp.zeros((1, 8, 8, 3)))
    (tmp_path / "in").mkdir()
    for bits in (8, 16):
        write_photo(tmp_path / "in" / f"{bits}.png", Photo(pixels(3, bits)))
    seen: dict[int, Any] = {}

    def note(run: Any, job: batch.Job, **_: Any) -> batch.Done:
        seen[job.bits] = run.model.dtype
        return (9, 12, 3), (18, 24, 3), ()

    monkeypatch.setattr(batch, "upscale_photo", note)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    line = ["upscale", "--run", str(run), str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert main([*line, flag]) == 0
    assert seen == {8: kind, 16: jnp.float32}


def test_options_are_grouped_in_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["upscale", "--help"])
    said = capsys.readouterr().out
    groups = dict(re.findall(r"^(\S[^\n]*):\n((?:  [^\n]*\n)+)", said, re.M))
    names = {group: re.findall(r"(?:^  |, )(-[-\w]+)", text, re.M) for group, text in groups.items()}
    wanted = {"-o": "files", "-n": "network", "-t": "device, memory and precision", "-q": "what is shown"}
    assert all(name in names[group] for name, group in wanted.items())
    assert set(names["options"]) == {"-h", "--help", "--debug"}


def test_the_licence_of_published_weights_is_told_as_a_fact_and_once(
    edsr_folder: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))
    trained = load_run(edsr_folder)
    state = write_network(trained.model, trained.params["edsr"], "edsr")
    monkeypatch.setattr(networks, "read_published", lambda name, packages: state)
    write_photo(tmp_path / "a.png", Photo(pixels(3)))
    line = ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "-n"]
    for name in ("RealESRGAN_x4plus", "RealSR_DF2K"):
        origin = PUBLISHED[name]
        assert main([*line, name]) == 0
        assert capsys.readouterr().out.splitlines()[0] == (
            f"{name}: {origin.origin}, from {origin.package}; licence: {origin.licence}"
        )
        assert main([*line, name]) == 0
        assert "licence:" not in capsys.readouterr().out


def test_a_folder_is_compiled_for_few_shapes(
    tmp_path: pathlib.Path, edsr_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[Any] = []
    monkeypatch.setattr(Status, "compiling", lambda self, shape: shapes.append(shape))
    for name, sizes in (("one", [(9, 12)] * 6), ("many", [(64 + 3 * i, 70 + 2 * i) for i in range(8)])):
        (tmp_path / name).mkdir()
        for number, (height, width) in enumerate(sizes):
            photo = Photo(pixels(3, 8, height, width))
            write_photo(tmp_path / name / f"{number}.png", photo)
        shapes.clear()
        line = ["upscale", "--run", str(edsr_folder), str(tmp_path / name), "-q"]
        assert main([*line, "-o", str(tmp_path / "out")]) == 0
        compiled = [shape for shape in shapes if shape]
        assert len(compiled) == 1, compiled


# A compilation of moments is not worth keeping; a test has no others.
KEEP_ALL = """
import sys, jax
from vaesr.app import cli
update = jax.config.update
jax.config.update = lambda name, value: update(name, 0.0 if name.endswith("compile_time_secs") else value)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_what_is_compiled_is_kept_for_the_next_time(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    write_photo(tmp_path / "a.png", Photo(pixels(3)))
    outside = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    outside["VAESR_CACHE"] = str(tmp_path / "cache")
    line = ["upscale", "--run", str(edsr_folder), str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    kept = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KEEP_ALL, *line], check=True, env=outside, timeout=300)
        kept.append({path.name for path in (tmp_path / "cache" / "xla").glob("*-cache")})
    assert kept[0] and kept[0] == kept[1]
