"""`vaesr fit`: parameters of metrics from photographs."""

import json

import numpy as np
import pytest

from vaesr import metrics
from vaesr.app.cli import main
from vaesr.files.images import Photo, write_photo


@pytest.mark.slow
def test_fit_writes_what_the_metrics_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VAESR_CACHE", str(tmp_path / "cache"))
    data = pytest.importorskip("skimage.data")
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, image in (("a", data.astronaut()), ("b", data.coffee()), ("c", data.rocket())):
        write_photo(folder / f"{name}.png", Photo(image))
    write_photo(folder / "grey.png", Photo(np.repeat(data.camera()[:200, :200, None], 3, 2)))
    write_photo(folder / "small.png", Photo(data.astronaut()[:50, :60]))
    source = f"folder:{folder}"
    command = ["fit", "niqe", "--data", source, "--sharpness", "0.3", "-o", str(tmp_path / "niqe.npz")]
    assert main(command) == 0
    assert "4 photographs (1 smaller than 96 pixels left out)" in capsys.readouterr().out
    model = metrics.load_niqe_model(tmp_path / "niqe.npz")
    x = data.coffee()[None, :192, :192] / np.float32(255)
    noisy = np.clip(x + np.random.default_rng(0).normal(size=x.shape) * 0.1, 0, 1).astype(np.float32)
    assert metrics.niqe(x, model=model)[0] < metrics.niqe(noisy, model=model)[0]
    assert main(["fit", "sff", "--data", source, "-o", str(tmp_path / "sff.npy")]) == 0
    assert "1 grey ones left out" in capsys.readouterr().out
    detector = metrics.load_sff_detector(tmp_path / "sff.npy")
    own = float(metrics.sff(x, noisy, detector=detector)[0])
    assert own == pytest.approx(float(metrics.sff(x, noisy)[0]), abs=0.03)
    command = ["evaluate", "-i", str(folder / "b.png"), "-o", str(tmp_path / "out"), "--metrics", "niqe"]
    assert main([*command, "--niqe-model", str(tmp_path / "niqe.npz")]) == 0
    found = json.loads((tmp_path / "out" / "scores.json").read_text())["metrics"]["niqe"]["mean"]
    whole = data.coffee()[None] / np.float32(255)
    assert found == pytest.approx(float(metrics.niqe(whole, model=model)[0]), abs=1e-3)
    assert found != pytest.approx(float(metrics.niqe(whole)[0]), abs=1e-2)
    for arguments, words in (
        (["niqe", "--data", source, "-o", str(tmp_path / "a.npy")], ".npz"),
        (["sff", "--data", "folder:" + str(tmp_path / "nowhere"), "-o", str(tmp_path / "a.npy")], "nowhere"),
    ):
        assert main(["fit", *arguments]) == 2
        assert words in capsys.readouterr().err
