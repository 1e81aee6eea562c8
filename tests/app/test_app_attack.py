"""Hostile inputs by the thousand, made by chance from fixed seeds: each is done, or refused in a line.

Nothing may end in a traceback, take much memory, or much of the processor's time. What is known to go wrong
has tests of its own in `test_app_hostile.py`. For new inputs in place of the fixed ones see `fuzzing`.
"""

import io
import json
import pathlib
import shutil
import time
import tracemalloc
import zipfile

import fuzzing
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from written_runs import write_run

from vaesr import data
from vaesr.app.cli import main
from vaesr.inference import load_network
from vaesr.models.edsr import EDSR
from vaesr.pretrained import write_checkpoint, write_network
from vaesr.runs import load_run

pytestmark = pytest.mark.slow
_SLOWEST = 60  # seconds of the processor: the machine may do something else, too
_MUCH = 2**28  # bytes


def rounds(seed, root):
    """A source of chance and an empty folder: once, or as often as `fuzzing` says."""
    for each in fuzzing.seeds(seed):
        folder = root / "round"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield np.random.default_rng(each), folder


def changed(rng: np.random.Generator, content: bytes) -> bytes:
    """One of the ways in which files are broken, or made to break their reader."""
    data = bytearray(content)
    place = int(rng.integers(len(data)))
    kind = rng.integers(7)
    if kind == 0:
        return bytes(data[:place])
    if kind == 1:  # a length that is huge, or not
        data[place : place + 4] = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4)][rng.integers(3)]
    elif kind == 2:
        for each in rng.integers(len(data), size=rng.integers(1, 20)):
            data[each] ^= 1 << rng.integers(8)
    elif kind == 3:
        end = place + int(rng.integers(1, 200))
        data[place:place] = data[place:end] * int(rng.integers(1, 50))
    elif kind == 4:
        del data[place : place + int(rng.integers(1, 200))]
    elif kind == 5:
        data[place:place] = rng.bytes(int(rng.integers(1, 100)))
    else:
        other = int(rng.integers(len(data)))
        first, second = slice(place, place + 16), slice(other, other + 16)
        data[first], data[second] = data[second], data[first]
    return bytes(data)


@pytest.fixture(scope="module", autouse=True)
def traced():
    """Memory is counted all along: CPython 3.11 crashes where counting ends as another thread allocates."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


def command(capsys, *words):
    """Runs the command; gives its exit code and what it said, which is never a traceback."""
    began, before = time.process_time(), tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    try:
        code = main([str(word) for word in words])
    except SystemExit as end:  # of the parser
        code = end.code
    finally:
        most = tracemalloc.get_traced_memory()[1] - before
    said = capsys.readouterr()
    assert code in (0, 1, 2), (words, said)
    assert "Traceback" not in said.err and time.process_time() - began < _SLOWEST and most < _MUCH
    if code == 2:
        assert said.err.count("\n") == 1 and said.err.startswith("vaesr"), said.err
    return code, said


def photo(form, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0110], exif[0x0112] = "camera", 6
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 30.0)})
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if form in ("GIF", "PPM", "BMP", "TGA", "ICO"):
        image.save(buffer, form, **options)
    else:
        image.save(buffer, form, exif=exif, **options)
    return buffer.getvalue()


FORMS = {
    "png": ("PNG", {}), "jpg": ("JPEG", {"xmp": b"<x tiff:Orientation='6'/>"}), "webp": ("WEBP", {}),
    "tif": ("TIFF", {"compression": "tiff_lzw"}), "gif": ("GIF", {}), "bmp": ("BMP", {}), "ppm": ("PPM", {}),
    "tga": ("TGA", {"compression": "tga_rle"}), "ico": ("ICO", {"sizes": [(16, 16)]}),
}  # fmt: skip


@pytest.mark.parametrize("ending", FORMS)
def test_pictures(ending, edsr_folder, vae_folder, tmp_path, capsys):
    """20 of each kind: upscaled, encoded, measured, and read as training data."""
    form, options = FORMS[ending]
    whole = photo(form, **options)
    for rng, root in rounds(len(ending) + ord(ending[0]), tmp_path):
        folder = root / "in"
        folder.mkdir()
        (folder / f"whole.{ending}").write_bytes(whole)
        for number in range(20):
            (folder / f"{number}.{ending}").write_bytes(changed(rng, whole))
        code, said = command(capsys, "upscale", "--run", edsr_folder, "-i", folder, "-o", root / "out")
        failed = said.err.splitlines()[1:]
        made = [path for path in (root / "out").iterdir() if not path.name.startswith(".")]
        assert len(made) == len(list((root / "out").iterdir())) and len(made) + len(failed) == 21
        assert code == bool(failed) and not [line for line in failed if "whole" in line]
        again = ("--run", edsr_folder, "-i", folder, "-o", root / "out2", "--metadata", "no-gps")
        command(capsys, "upscale", *again)
        for path in (root / "out2").iterdir():
            with Image.open(path) as image:
                assert not image.getexif().get_ifd(0x8825)
        command(capsys, "encode", "--run", vae_folder, "-i", folder, "--resize", "-o", root / "codes.npz")
        command(capsys, "evaluate", "-r", folder, "-i", folder, "-o", root / "scores")
        if ending not in ("ppm", "tga", "ico"):  # those that a source takes
            bank = data.open_bank(f"folder:{folder}", cache_dir=root / "cache", progress=False)
            assert 1 <= len(bank) <= 21


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A small EDSR in every format that is read."""
    folder = tmp_path_factory.mktemp("checkpoints")
    model = EDSR(scale=2, channels=4, blocks=1)
    run = load_run(write_run(folder / "run", "edsr", model, jnp.zeros((1, 8, 8, 3))))
    state = write_network(run.model, run.params["edsr"], "edsr")
    files = {}
    for ending in (".pth", ".safetensors"):
        files[ending] = write_checkpoint(folder / f"a{ending}", state)
    return folder / "run", files


@pytest.mark.parametrize("ending", (".pth", ".safetensors"))
def test_checkpoints(ending, checkpoints, tmp_path, capsys):
    """60 of each: the network, or a sentence."""
    whole = checkpoints[1][ending]
    for rng, root in rounds(ord(ending[1]), tmp_path):
        (root / f"whole{ending}").write_bytes(whole)
        assert load_network(root / f"whole{ending}").model.channels == 4
        for _ in range(60):
            (root / f"a{ending}").write_bytes(changed(rng, whole))
            command(capsys, "convert", root / f"a{ending}", "-o", root / "b.pth")


def test_files_within_a_checkpoint(checkpoints, tmp_path, capsys):
    """60 archives whose checksums are right and whose pickle isn't."""
    for rng, root in rounds(7, tmp_path):
        with zipfile.ZipFile(io.BytesIO(checkpoints[1][".pth"])) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        pickle = next(name for name in members if name.endswith("data.pkl"))
        for _ in range(60):
            with zipfile.ZipFile(root / "a.pth", "w") as archive:
                for name, content in members.items():
                    archive.writestr(name, changed(rng, content) if name == pickle else content)
            command(capsys, "convert", root / "a.pth", "-o", root / "b.pth")


def test_run_folders(checkpoints, tmp_path, capsys):
    """60 whose configuration or checkpoint is broken, by chance or on purpose."""
    whole = checkpoints[0]
    for rng, root in rounds(8, tmp_path):
        (root / "a.png").write_bytes(photo("PNG"))
        described = json.loads((whole / "config.json").read_text())
        odd = (None, -1, 0, 1e9, 10**30, "", "x" * 9999, [], [[]], {}, True, "../../..", float("nan"))
        for number in range(60):
            shutil.rmtree(root / "run", ignore_errors=True)
            shutil.copytree(whole, root / "run")
            file = root / "run" / "config.json"
            if number % 3 == 0:
                file.write_bytes(changed(rng, file.read_bytes()))
            elif number % 3 == 1:
                content = json.loads(json.dumps(described))
                fields = content["model"] if number % 2 else content["model"]["fields"]
                fields[list(fields)[rng.integers(len(fields))]] = odd[rng.integers(len(odd))]
                file.write_text(json.dumps(content))
            else:
                step = next((root / "run" / "checkpoints").glob("[0-9]*"))
                if number % 2:  # so that its reader gets to see it
                    (step / "hashes.json").unlink()
                files = [path for path in step.rglob("*") if path.is_file()]
                file = files[rng.integers(len(files))]
                file.write_bytes(changed(rng, file.read_bytes() or b"\0"))
            for which in ("best", "latest"):
                command(
                    capsys, "upscale", "--run", root / "run", "--which", which, root / "a.png",
                    "-o", root / "out",
                )  # fmt: skip


FLAGS = {
    "upscale": (
        "-i", "-o", "-n", "-m", "-s", "-t", "--tile-pad", "--crf", "-dn", "--denoise-path", "--suffix", "-f",
        "-g", "--residual-scale", "--metadata", "--which",
    ),
    "sample": ("-o", "-n", "--seed", "--temperature", "--label", "--top-k", "--keep", "--columns"),
    "evaluate": ("-r", "-i", "-o", "--metrics", "--protocol", "--pictures", "--weights", "--rrf-k", "--iqa"),
    "export": ("-o", "--size", "-s", "--platforms", "--layout"),
    "fit": ("--data", "--split", "-o", "--seed", "--sharpness"),
}  # fmt: skip


@pytest.mark.parametrize("name", FLAGS)
def test_words(name, checkpoints, vae_folder, tmp_path, capsys, monkeypatch):
    """Every value for every option."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(photo("PNG"))
    start = {
        "upscale": ["upscale", "-i", "a.png", "-m", checkpoints[0], "-q"],
        "sample": ["sample", "--run", vae_folder, "-o", "x.png", "-n", "2"],
        "evaluate": ["evaluate", "-r", "a.png", "-i", "a.png", "-o", "scores"],
        "export": ["export", checkpoints[0], "-o", "x.onnx"],
        "fit": ["fit", "niqe", "--data", "npy:none", "-o", "x.npz"],
    }[name]
    for flag in FLAGS[name]:
        for value in fuzzing.VALUES:
            command(capsys, *start, flag, value)


@pytest.mark.parametrize("kind", ("npy", "idx"))
def test_tables_of_numbers(kind, tmp_path):
    """40 of each: a source, or one reason."""
    for rng, root in rounds(len(kind), tmp_path):
        folder = root / kind
        folder.mkdir()
        numbers = rng.integers(0, 256, (30, 6, 5), dtype=np.uint8)
        if kind == "npy":
            buffer = io.BytesIO()
            np.save(buffer, numbers)
            name, whole = "train.npy", buffer.getvalue()
        else:
            name = "train-images-idx3-ubyte"
            whole = b"\0\0\x08\x03" + np.array([30, 6, 5], ">i4").tobytes() + numbers.tobytes()
        for number in range(40):
            (folder / name).write_bytes(changed(rng, whole) if number else whole)
            try:
                bank = data.open_bank(f"{kind}:{folder}", cache_dir=root / "cache", progress=False)
            except (ValueError, OSError) as error:
                assert number and 0 < len(str(error)) < 1000
            else:
                assert len(bank) and pathlib.Path(bank.path).exists()
