"""What the systems' finished quick runs hold beside what every run has; a worker has made them once."""

import json

import numpy as np
import pytest

from vaesr import data, inference, reports, runs
from vaesr.app.cli import main

pytestmark = pytest.mark.slow


def of(name):
    """The parameter by which a worker gets all tests of one system."""
    return pytest.mark.parametrize("name", [name])


def metrics_of(folder):
    return [row for row in reports.read_metrics(folder) if row["split"] == "test"]


@of("esrgan")
def test_the_interpolations_ends_are_the_two_networks(name, finished):
    folder = finished(name).workdir
    rows = json.loads((folder / "interpolation.json").read_text())
    assert [row["share"] for row in rows] == pytest.approx(list(np.linspace(0, 1, 11)))
    # As their own reports have them.
    for row, stage in ((rows[0], folder), (rows[-1], folder / "gan")):
        assert row["psnr_y_db"] == pytest.approx(metrics_of(stage)[-1]["psnr_y_db"], abs=1e-4)
    names = {path.name for path in (folder / "figures").iterdir()}
    assert "1_interpolation.png" in names and any(name.startswith("2_test_") for name in names)
    described = json.loads((folder / "gan" / "config.json").read_text())["model"]
    assert described["class"] == "RRDBNet" and described["trained_with"] == "random features"
    upscaled = inference.upscale(runs.load_run(folder / "gan"), np.zeros((9, 8, 3), np.uint8))
    assert upscaled.shape == (36, 32, 3)


@of("deoldify")
def test_colours_keep_the_luma(name, finished):
    folder = finished(name).workdir
    assert {"critic", "joint"} <= {path.name for path in folder.iterdir()}
    image = np.random.default_rng(0).random((40, 37, 3)).astype(np.float32)
    image[...] = image.mean(-1, keepdims=True)
    coloured = inference.upscale(runs.load_run(folder / "joint"), image)
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(coloured @ luma, image @ luma, atol=1e-3)
    test = metrics_of(folder)[-1]
    assert test["psnr_y_db"] > 45 and "psnr_rgb_db" in test


@of("vqvae2")
def test_a_run_leaves_every_stage(name, finished):
    folder = finished(name).workdir
    assert {p.name for p in folder.iterdir()} >= {"codes", "prior_top", "prior_bottom", "report.html"}
    codes = data.read_codes(folder / "codes")
    assert codes.splits["train"]["codes_0"].shape[1:] == (7, 7)
    assert codes.splits["train"]["codes_1"].shape[1:] == (14, 14) and codes.levels == 2
    figures = {path.name for path in (folder / "figures").iterdir()}
    assert figures == {"1_reconstructions.png", "2_usage.png", "3_samples.png", "4_samples.png"}
    last = metrics_of(folder)[-1]
    assert {"bits_per_code_top", "bits_per_code_bottom", "code_bits_with_prior", "bits_per_dim"} <= set(last)
    first = metrics_of(folder)[0]
    assert {"mse", "pca_mse", "epoch_usage_top_percent", "perplexity_bottom"} <= set(first)
    prior = metrics_of(folder / "prior_bottom")[-1]
    assert prior["uniform_bits_per_code"] == 4 and 0 < prior["unigram_bits_per_code"] < 4.1
    # The bound counts all codes and all pixels.
    bits = 49 * last["bits_per_code_top"] + 196 * last["bits_per_code_bottom"]
    assert last["code_bits_with_prior"] == pytest.approx(bits)
    assert last["bits_per_dim"] > bits / 784


@of("vqvae2")
def test_sampling_from_a_run(name, finished, tmp_path, capsys):
    folder = finished(name).workdir
    out = tmp_path / "a.npy"
    base_command = ["sample", "--run", str(folder), "-n", "3", "-o"]
    assert main([*base_command, str(out)]) == 0
    images = np.load(out)
    assert images.shape == (3, 28, 28, 1) and images.min() >= 0 and images.max() <= 1
    # The k-th image depends on the seed and k alone; classes come in turn.
    run_ = runs.load_run(folder)
    more, labels = inference.sample_images(run_, 5)
    np.testing.assert_allclose(more[:3], images, atol=1e-5)
    np.testing.assert_array_equal(labels, [0, 1, 2, 3, 4])
    assert main([*base_command, str(out), "--label", "7", "--top-k", "2", "--temperature", "0.5"]) == 0
    assert np.abs(np.load(out) - images).max() > 0
    assert main([*base_command, str(out), "--label", "10"]) == 2
    assert "label must be one of the priors' classes (0 to 9), got 10" in capsys.readouterr().err


@of("vqvae2")
def test_encoding_and_decoding_with_a_run(name, finished, tmp_path, capsys):
    folder = finished(name).workdir
    codes, back = tmp_path / "codes.npz", tmp_path / "back.npy"
    command = ["encode", "--run", str(folder), "-o"]
    assert main([*command, str(codes), "--data", "embedded:digits"]) == 0
    assert "codes_0 [500, 7, 7], codes_1 [500, 14, 14]" in capsys.readouterr().out
    content = np.load(codes)
    assert content["codes_0"].dtype == np.uint8 and set(content["label"]) == set(range(10))
    kept = data.read_codes(folder / "codes")
    np.testing.assert_array_equal(np.sort(kept.splits["test"]["label"]), np.sort(content["label"]))
    assert main([*command, str(back), "--decode", str(codes)]) == 0
    run_ = runs.load_run(folder)
    pixels = data.open_bank("embedded:digits").pixels[:1].astype(np.float32) / 255
    again = inference.decode_maps(run_, inference.encode_maps(run_, pixels))
    direct = np.clip(np.asarray(run_.apply(pixels).reconstruction), 0, 1)
    np.testing.assert_allclose(again, direct, atol=1e-5)
    top = inference.decode_maps(run_, inference.encode_maps(run_, pixels), keep=1)
    assert np.abs(top - direct).max() > 0
    with pytest.raises(ValueError, match="code maps must be"):
        inference.decode_maps(run_, inference.encode_maps(run_, pixels)[:1])
