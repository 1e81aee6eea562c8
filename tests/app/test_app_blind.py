"""`vaesr kernel`, and `vaesr upscale` with a network for each photo."""

import os
import pathlib
import subprocess
import sys

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


def run(*arguments):
    """The command as a process of its own: its programs are compiled as users' are."""
    line = [sys.executable, "-m", "vaesr", *map(str, arguments)]
    done = subprocess.run(
        line, env={**os.environ, "XLA_FLAGS": ""}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


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
def test_kernels_of_a_folder(tmp_path):
    folder_of_all_kinds(tmp_path / "in")
    out = tmp_path / "new" / "kernels"
    line = ["kernel", tmp_path / "in", "-o", out, "--seeds", 2, "--steps", 50]
    code, said, wrong = run(*line)
    assert code == 1
    assert "vaesr kernel: 2 of 7 files failed:" in wrong.splitlines()
    assert "is 90x40; its blur can be told from 64x64 pixels on" in wrong
    assert "nothing to see: the bicubic kernel" in said
    for name in ("grey", "rgb", "rgba", "deep", "flat"):
        ours = read_kernel(out / f"{name}.npz")
        assert ours.shape == (17, 17) and abs(ours.sum() - 1) < 1e-9
        np.testing.assert_allclose(scipy.io.loadmat(out / f"{name}.mat")["Kernel"], ours, atol=1e-12)
        assert np.asarray(Image.open(out / f"{name}.png")).std() > 10
    # Colours are what is looked at, not what else a file holds.
    np.testing.assert_allclose(read_kernel(out / "rgb.npz"), read_kernel(out / "deep.npz"), atol=0.02)
    before = (out / "rgb.npz").stat().st_mtime_ns
    code, said, _ = run(*line, "--skip-existing")
    assert code == 1 and "5 of 7 kernels are there already: skipped" in said
    assert (out / "rgb.npz").stat().st_mtime_ns == before


@pytest.mark.slow
def test_photos_with_networks_of_their_own(tmp_path):
    folder_of_all_kinds(tmp_path / "in")
    out = tmp_path / "out"
    line = ["upscale", tmp_path / "in", "-o", out, "-n", "zssr", "--steps", 10]
    code, _, wrong = run(*line)
    assert code == 1
    assert "vaesr upscale: 1 of 7 files failed:" in wrong.splitlines() and "words.jpg" in wrong
    for name, shape, kind in (
        ("grey", (160, 192, 1), np.uint8), ("rgb", (160, 192, 3), np.uint8),
        ("rgba", (160, 192, 4), np.uint8), ("deep", (160, 192, 3), np.uint16),
        ("flat", (140, 140, 3), np.uint8), ("small", (80, 180, 3), np.uint8),
    ):  # fmt: skip
        pixels = read_photo(out / f"{name}_out.png").pixels
        assert pixels.shape == shape and pixels.dtype == kind
        source = read_photo(tmp_path / "in" / f"{name}.png").pixels.astype(float)
        small = pixels.reshape(shape[0] // 2, 2, shape[1] // 2, 2, shape[2]).mean((1, 3))
        assert np.abs(small - source).mean() < 0.04 * np.iinfo(kind).max
    before = (out / "rgb_out.png").stat().st_mtime_ns
    (out / "grey_out.png").unlink()
    code, _, _ = run(*line, "--skip-existing", "-s", 1.5)
    assert code == 1 and (out / "rgb_out.png").stat().st_mtime_ns == before
    assert read_photo(out / "grey_out.png").pixels.shape == (120, 144, 1)


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
        (["kernel", "a.png", "-o", "."], "-o: a.png is there already and no result of ours"),
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
        (["upscale", "a.png", "-n", "zssr", "--noise", "80"], "in [0, 20]"),
        (["upscale", "a.png", "-n", "zssr", "--steps", "0"], "at least 1"),
    ],
)
def test_parser_errors_are_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr()
    assert stop.value.code == 2 and words in said.err and said.err.count("\n") == 1
