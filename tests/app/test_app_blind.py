"""`vaesr kernel`, and `vaesr upscale` with a network for each photo."""

import pathlib

import numpy as np
import pytest
import scipy.io
from PIL import Image

from vaesr.app.cli import main
from vaesr.files.images import Photo, read_photo, write_photo
from vaesr.files.kernels import read_kernel


def scene(height=80, width=96, channels=3, kind=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 5
    plane = np.stack([np.sin(x) * np.cos(y), np.sin(x + y), np.cos(2 * x - y), np.cos(x)], axis=-1)
    plane = np.clip(0.5 + 0.3 * plane + rng.normal(0, 0.05, plane.shape), 0, 1)[..., :channels]
    return np.round(plane * np.iinfo(kind).max).astype(kind)


def folder_of_all_kinds(folder: pathlib.Path) -> None:
    folder.mkdir()
    for name, channels, kind in (
        ("grey", 1, np.uint8), ("rgb", 3, np.uint8), ("rgba", 4, np.uint8), ("deep", 3, np.uint16),
    ):  # fmt: skip
        write_photo(folder / f"{name}.png", Photo(scene(channels=channels, kind=kind)))
    write_photo(folder / "flat.png", Photo(np.full((70, 70, 3), 90, np.uint8)))
    write_photo(folder / "small.png", Photo(scene(40, 90)))
    (folder / "words.jpg").write_text("no image")


@pytest.mark.slow
def test_kernels_of_a_folder(tmp_path, capsys):
    folder_of_all_kinds(tmp_path / "in")
    out = tmp_path / "new" / "kernels"
    line = ["kernel", str(tmp_path / "in"), "-o", str(out), "--seeds", "2", "--steps", "60"]
    assert main(line) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == "vaesr kernel: 2 of 7 files failed:"
    assert "is 90x40; its blur can be told from 64x64 pixels on" in said.err
    assert "nothing to see: the bicubic kernel" in said.out
    for name in ("grey", "rgb", "rgba", "deep", "flat"):
        ours = read_kernel(out / f"{name}.npz")
        assert ours.shape == (17, 17) and abs(ours.sum() - 1) < 1e-9
        np.testing.assert_allclose(scipy.io.loadmat(out / f"{name}.mat")["Kernel"], ours, atol=1e-12)
        assert np.asarray(Image.open(out / f"{name}.png")).std() > 10
    # Colours are what is looked at, not what else a file holds.
    np.testing.assert_allclose(read_kernel(out / "rgb.npz"), read_kernel(out / "deep.npz"), atol=0.02)
    before = (out / "rgb.npz").stat().st_mtime_ns
    assert main([*line, "--skip-existing"]) == 1
    assert "5 of 7 kernels are there already: skipped" in capsys.readouterr().out
    assert (out / "rgb.npz").stat().st_mtime_ns == before


@pytest.mark.slow
def test_photos_with_networks_of_their_own(tmp_path, capsys):
    folder_of_all_kinds(tmp_path / "in")
    out = tmp_path / "out"
    line = ["upscale", str(tmp_path / "in"), "-o", str(out), "-n", "zssr", "--steps", "10"]
    assert main(line) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == "vaesr upscale: 1 of 7 files failed:" and "words.jpg" in said.err
    for name, shape, kind in (
        ("grey", (160, 192, 1), np.uint8), ("rgb", (160, 192, 3), np.uint8),
        ("rgba", (160, 192, 4), np.uint8), ("deep", (160, 192, 3), np.uint16),
        ("flat", (140, 140, 3), np.uint8), ("small", (80, 180, 3), np.uint8),
    ):  # fmt: skip
        pixels = read_photo(out / f"{name}_out.png").pixels
        assert pixels.shape == shape and pixels.dtype == kind
        source = read_photo(tmp_path / "in" / f"{name}.png").pixels.astype(float)
        top = np.iinfo(kind).max
        small = pixels.reshape(shape[0] // 2, 2, shape[1] // 2, 2, shape[2]).mean((1, 3))
        assert np.abs(small - source).mean() < 0.04 * top
    for path in out.iterdir():
        if path.name != "rgb_out.png":
            path.unlink()
    before = (out / "rgb_out.png").stat().st_mtime_ns
    assert main([*line, "--skip-existing", "-s", "1.5"]) == 1
    assert (out / "rgb_out.png").stat().st_mtime_ns == before
    assert read_photo(out / "grey_out.png").pixels.shape == (120, 144, 1)


@pytest.mark.slow
def test_an_estimated_kernel_is_the_kernel_given(tmp_path):
    write_photo(tmp_path / "a.png", Photo(scene()))
    assert main(["kernel", str(tmp_path / "a.png"), "-o", str(tmp_path / "k"), "--steps", "50"]) == 0
    photo, steps = str(tmp_path / "a.png"), ["--steps", "50"]
    assert main(["upscale", photo, "-o", str(tmp_path / "one"), "-n", "kernelgan", *steps]) == 0
    for ending in ("npz", "mat"):
        given = ["--kernel", str(tmp_path / "k" / f"a.{ending}")]
        assert main(["upscale", photo, "-o", str(tmp_path / ending), "-n", "zssr", *given, *steps]) == 0
        ours, theirs = (
            read_photo(tmp_path / where / "a_out.png").pixels.astype(int) for where in ("one", ending)
        )
        assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["upscale", "a.png", "-n", "zssr", "-s", "5"], "-s: 5 is more than 4"),
        (["upscale", "a.png", "-n", "zssr", "--tile", "64"], "--tile: means nothing"),
        (["upscale", "a.png", "-n", "zssr", "-x"], "--self-ensemble: means nothing"),
        (["upscale", "a.png", "-n", "zssr", "--kernel", "none.npz"], "--kernel: "),
        (
            ["upscale", "a.png", "-n", "kernelgan", "--kernel", "a.npz"],
            "estimates the kernel that --kernel gives",
        ),
        (["upscale", "a.png", "--kernel", "a.npz"], "--kernel is for -n zssr"),
        (["upscale", "a.png", "--noise", "1"], "--noise is for -n zssr"),
        (["kernel", "a.png", "-o", "a.png"], "'a.png' is a file; give a folder"),
        (["kernel", "nothing.png", "-o", "k"], "nothing.png"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    write_photo(tmp_path / "a.png", Photo(scene()))
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and said.out == ""


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["kernel", "a.png"], "required"),
        (["kernel", "a.png", "-o", "k", "--scale", "3"], "invalid choice"),
        (["kernel", "a.png", "-o", "k", "--seeds", "0"], "at least 1"),
        (["kernel", "a.png", "-o", "k", "--mode", "good"], "invalid choice"),
        (["upscale", "a.png", "-n", "zssr", "--noise", "-1"], "at least 0"),
        (["upscale", "a.png", "-n", "zssr", "--steps", "0"], "at least 1"),
    ],
)
def test_parser_errors_are_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr()
    assert stop.value.code == 2 and words in said.err and said.err.count("\n") == 1
