"""Networks of other projects as `vaesr upscale` takes them: checkpoints and published weights."""

import pathlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from written_runs import write_run

from vaesr.app.cli import main
from vaesr.files.images import Photo, read_photo, write_photo
from vaesr.inference import load_network, networks, upscale
from vaesr.models.rrdb import RRDBNet
from vaesr.pretrained import PUBLISHED, read_torch, write_checkpoint, write_network
from vaesr.runs import load_run


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (13, 10, 3), dtype=np.uint8)


def checkpoint(folder: pathlib.Path, run: pathlib.Path, ending: str) -> pathlib.Path:
    """The run's network as EDSR's authors would have saved it."""
    trained = load_run(run)
    path = folder / f"edsr{ending}"
    state = write_network(trained.model, trained.params[trained.player], "edsr")
    path.write_bytes(write_checkpoint(path, state))
    return path


@pytest.mark.parametrize("ending", [".pth", ".pt", ".safetensors"])
def test_a_checkpoint_is_the_network_it_was_made_of(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, ending: str
) -> None:
    if ending == ".safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = checkpoint(tmp_path, edsr_folder, ending)
    found, trained = load_network(path), load_run(edsr_folder)
    assert found.model == trained.model and found.config["origin"]["network"] == "EDSR"
    np.testing.assert_array_equal(upscale(found, pixels()), upscale(trained, pixels()))
    assert load_network(edsr_folder).step == 7
    with pytest.raises(ValueError, match=r"must end in \.pth"):
        write_checkpoint(tmp_path / "x.npz", {})


@pytest.mark.parametrize("backend", ["cpu", "tpu"])  # "gpu" is a mark of conftest.py
def test_blocks_are_a_loop_where_compiling_takes_long(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    model = RRDBNet(scale=4, channels=4, growth=2, blocks=2)
    empty = jnp.zeros((1, 8, 8, 3))
    folder = write_run(tmp_path / "run", "rrdb", model, empty)
    path = tmp_path / "rrdb.pth"
    state = write_network(model, load_run(folder).params["rrdb"], "rrdb")
    path.write_bytes(write_checkpoint(path, state))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    for source in (folder, path):
        assert load_network(source).model.loop == (backend == "cpu")


def test_the_command_takes_it(
    edsr_folder: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = checkpoint(tmp_path, edsr_folder, ".pth")
    write_photo(tmp_path / "a.png", Photo(pixels()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))  # where nobody has been told yet
    assert main(["upscale", "a.png", "--model_path", str(path)]) == 0
    said = capsys.readouterr().out
    assert "edsr.pth: EDSR, sha256 " in said
    ours = read_photo(tmp_path / "results" / "a_out.png").pixels
    np.testing.assert_array_equal(ours, upscale(load_run(edsr_folder), pixels()))


def test_convert_writes_what_others_read(
    edsr_folder: pathlib.Path,
    vae_folder: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = tmp_path / "a.pth", tmp_path / "b.pt"
    assert main(["convert", str(edsr_folder), "-o", str(first)]) == 0
    assert "EDSR, 20 arrays, 5,723 numbers" in capsys.readouterr().out
    assert main(["convert", str(first), "-o", str(second), "--family", "edsr-basicsr"]) == 0
    assert list(read_torch(second.read_bytes())) == ["params"]  # as BasicSR's loader expects it
    trained = load_run(edsr_folder)
    for path in (first, second):
        found = load_network(path)
        jax.tree.map(np.testing.assert_array_equal, found.params["generator"], trained.params["edsr"])
    for line, words in (
        ([str(first), "-o", "x.pth", "--family", "rrdb"], "BasicSR's RRDBNet cannot hold a EDSR"),
        ([str(first), "-o", "x.pth", "--family", "foo"], "family must be one of"),
        ([str(first)], "say which file to write"),
        ([str(first), "-o", "x.npz"], "must end in .pth, .pt, .safetensors"),
        ([str(first), "-o", "x.pth", "--trunk", "y.pth"], "belong to metrics"),
        (["lpips-alex", "--family", "edsr"], "--family belongs to upscalers"),
        ([str(vae_folder), "-o", "x.pth"], "no project known here has names for VAE"),
        (["lpips-axel", "-o", "x.pth"], "there is no run folder, file or network"),
    ):
        assert main(["convert", *line]) == 2
        assert words in capsys.readouterr().err
    assert not list(pathlib.Path().glob("x.*"))


def test_evaluate_judges_it(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(tmp_path, edsr_folder, ".pth")
    write_photo(tmp_path / "hr.png", Photo(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)))
    scores = []
    for name, network in (("own", edsr_folder), ("file", path)):
        line = ["-r", str(tmp_path / "hr.png"), "-o", str(tmp_path / name), "--metrics", "psnr"]
        assert main(["evaluate", "--run", str(network), *line]) == 0
        scores.append((tmp_path / name / "scores.csv").read_text())
    assert scores[0] == scores[1] and "psnr" in scores[0]


class Evil:
    def __reduce__(self) -> tuple:
        return pathlib.Path.write_text, (pathlib.Path("victim"), "run")


def test_bad_networks_are_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photo(tmp_path / "a.png", Photo(pixels()))
    head = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {}))
    contents = {
        "empty.pth": b"",
        "photo.pth": (tmp_path / "a.png").read_bytes(),
        "cut.safetensors": b"\x40\x00\x00\x00\x00\x00\x00\x00{",
        "evil.pth": head + pickle.dumps({"params": Evil()}, 2),
        "other.pth": write_checkpoint("x.pth", {"layers.0.weight": np.zeros(3, np.float32)}),
        "alone.param": b"7767517\n1 1\nInput in 0 1 data\n",
    }
    words = {
        "evil.pth": "nothing was run", "other.pth": "no network known here", "alone.param": "must be beside"
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert main(["upscale", "-i", "a.png", "--model-path", name]) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1 and name in said.err and words.get(name, "") in said.err
    assert not (tmp_path / "victim").exists() and not (tmp_path / "results").exists()
    for line, text in (
        (["a.png", "-n", "RealESRGAN_x9"], "published networks are RealESRGAN_x4plus"),
        (["a.png", "-i", "a.png"], "given twice"),
        ([], "give image files"),
    ):
        assert main(["upscale", *line]) == 2
        assert text in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_are_the_networks_they_are_called(name: str) -> None:
    pytest.importorskip(
        PUBLISHED[name].package.replace("-", "_"), reason="vaesr[pretrained] is not installed"
    )

    run = load_network(name)
    count = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    expected = {"RealESRGAN_x4plus_anime_6B": 4_467_779, "realesr-animevideov3": 621_424}
    assert count == expected.get(name, 16_697_987) and run.config["origin"]["licence"]
    # They make a larger photo of one, in its colours: RGB, not BGR.
    photo = np.full((16, 16, 3), (200, 90, 30), np.uint8)
    if count < 10**7:
        larger = upscale(run.precise(), photo)
        assert larger.shape == (64, 64, 3)
        assert np.abs(larger.astype(int).mean((0, 1)) - photo[0, 0]).max() < 12


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("realesrgan-x4plus", "RealESRGAN_x4plus"),
        ("RealESRGAN_x4plus", "RealESRGAN_x4plus"),
        ("realesrgan-x4plus-anime", "RealESRGAN_x4plus_anime_6B"),
        ("realesr-animevideov3", "realesr-animevideov3"),
        ("realesr", None),
        ("real", None),
        ("", None),
    ],
)
def test_published_names_as_other_programs_spell_them(spelling, name):
    assert networks._published(spelling) == name
