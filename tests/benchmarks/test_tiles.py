"""The suite `tiles`: sides that agree, and photos that do not fit the memory."""

import jax
import numpy as np
import pytest

from benchmarks import run, trainings
from benchmarks.options import Options
from benchmarks.suites import tiles


@pytest.mark.slow
@pytest.mark.parametrize("model", ["rrdb6", "srvgg", "edsr_baseline"])
def test_sides_agree_and_run(model):
    pytest.importorskip("torch", reason="the peer's side needs torch")
    options = Options(suites=("tiles",), models=(model,), peers=("torch", "ncnn"), smoke=True)
    (case,) = tiles.cases(options)
    names = [side.name for side in case.sides]
    assert names[0] == "vaesr whole" and "vaesr auto" in names and "torch eager channels_last" in names
    assert {name for name, _ in case.absent} == {"ncnn"} | ({"vaesr tile 16"} - set(names))
    assert case.parity["passed"] and 0 < case.parity["output"] < 1e-4
    for side in case.sides:
        side.run(1)


def test_peers_get_our_windows_where_the_whole_photo_does_not_fit(monkeypatch):
    small = 48 * 40 * 1000
    monkeypatch.setattr(tiles, "memory_budget", lambda: small)
    monkeypatch.setattr("vaesr.inference.tiling.memory_budget", lambda: 64 * 64)
    photo = tiles._photo(90, 110)
    network = tiles._network("", trainings.shrunk(tiles._NETWORKS["srvgg"][1]))
    case, job = tiles._ours("srvgg", network, photo, Options(tiles=("whole", "auto", "24")))
    assert [name for name, _ in case.absent] == ["vaesr whole"]
    assert [side.name for side in case.sides] == ["vaesr auto", "vaesr tile 24"]
    assert case.parity["passed"] and "differs from vaesr auto" in case.sides[1].note
    seen = []

    def peer(window):
        seen.append(window.shape)
        return np.zeros((1, window.shape[1] * 4, window.shape[2] * 4, 3), np.uint8)

    job.repeated(peer)(2)
    assert len(set(seen)) == 1 and len(seen) >= 2 * 3
    assert seen[0][1] * seen[0][2] <= 64 * 64 < 90 * 110
    seen.clear()
    _, job = tiles._ours("srvgg", network, photo, Options(tiles=("24", "auto")))
    job.repeated(peer)(1)
    margin = 2 * network.model.receptive_radius
    assert set(seen) == {(1, 24 + margin, 24 + margin, 3)}


@pytest.mark.parametrize("cut", ["auto", "24"])
def test_long_calls_compile_on_one_window(cut, monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    monkeypatch.setattr(tiles, "_SLOW", 0)
    monkeypatch.setattr(tiles, "memory_budget", lambda: 0)
    monkeypatch.setattr("vaesr.inference.tiling.memory_budget", lambda: 64 * 64)
    photo = tiles._photo(90, 110)
    network = tiles._network("", trainings.shrunk(tiles._NETWORKS["srvgg"][1]))
    case, _ = tiles._ours("srvgg", network, photo, Options(tiles=(cut,)))
    (side,) = case.sides
    with jax.no_tracing():  # what the photo needs is compiled
        side.run(1)
    assert case.slow and not case.absent


def test_how_photos_are_cut_is_read():
    assert run._tiles("whole, 128,auto") == ("whole", "128", "auto")
    for wrong in ("half", "0", "", "128,-3", "1.5"):
        with pytest.raises(run.argparse.ArgumentTypeError, match="whole, auto, or pixels"):
            run._tiles(wrong)


def test_one_sample_is_only_for_the_suite_of_long_calls():
    with pytest.raises(SystemExit, match="--samples 1: a plan needs samples >= 2"):
        run.main(["--suite", "train", "--smoke", "--samples", "1", "--pin", "off"])
    for wrong in ("0x5", "-3x4", "12", "axb"):
        with pytest.raises(run.argparse.ArgumentTypeError, match="WIDTHxHEIGHT"):
            run._sizes(wrong)
