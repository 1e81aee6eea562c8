"""Exported upscalers beside the networks themselves: onnxruntime and a fresh call of StableHLO."""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from small_networks import found

from vaesr import inference
from vaesr.app import cli
from vaesr.inference import exporting
from vaesr.models.edsr import EDSR
from vaesr.models.mdsr import MDSR
from vaesr.models.srresnet import MSRResNet
from vaesr.models.unet import UNet
from vaesr.runs.load import Run

UPSCALERS = found("SMALL_UPSCALERS")
ONE_SIZE = found("ONE_SIZE")


def open_in(form: str) -> list[str]:
    """The networks that are exported for any size."""
    return [name for name in UPSCALERS if form not in ONE_SIZE.get(name, ())]


def make_run(model: nn.Module) -> Run:
    variables = dict(model.init(jax.random.key(3), jnp.zeros((1, 16, 16, 3))))
    params = jax.tree.map(lambda leaf: leaf + 0.01, variables.pop("params"))
    return Run(pathlib.Path("net"), model, {"generator": params}, {"generator": variables}, {"model": {}}, 5)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, atol=2e-6 * max(1.0, float(np.abs(wanted).max())), rtol=0)


def onnx_session(data: bytes):  # type: ignore[no-untyped-def]
    import onnxruntime

    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize("name", open_in("onnx"))
def test_onnx_of_open_sizes_gives_the_networks_results(name: str) -> None:
    run = make_run(UPSCALERS[name])
    session = onnx_session(exporting.export_onnx(run))
    for shape in ((1, 16, 24), (3, 13, 17)):
        x = noise(*shape, 3)
        found = session.run(None, {"input": x.transpose(0, 3, 1, 2)})[0]
        close(found.transpose(0, 2, 3, 1), np.asarray(inference.bind_upscaler(run).apply(x)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in UPSCALERS if name not in open_in("onnx")])
def test_onnx_of_one_size_and_its_error_without(name: str) -> None:
    run = make_run(UPSCALERS[name])
    with pytest.raises(ValueError, match="--size"):
        exporting.export_onnx(run)
    session = onnx_session(exporting.export_onnx(run, size=(12, 20), layout="nhwc"))
    x = noise(1, 12, 20, 3)
    close(session.run(["output"], {"input": x})[0], np.asarray(inference.bind_upscaler(run).apply(x)))


@pytest.mark.slow
def test_onnx_says_what_it_is(tmp_path: pathlib.Path) -> None:
    run = make_run(MDSR(channels=4, blocks=1))
    data = exporting.export_onnx(run, scale=3)
    import onnx

    model = onnx.load_from_string(data)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["scale"] == "3"
    assert facts["layout"] == "NCHW"
    assert json.loads(facts["origin"]) == {"run": "net", "step": 5}
    assert onnx_session(data).run(None, {"input": noise(1, 3, 8, 8)})[0].shape == (1, 3, 24, 24)


@pytest.mark.slow
@pytest.mark.parametrize("name", open_in("stablehlo"))
def test_stablehlo_of_open_sizes_gives_the_networks_results(name: str, tmp_path: pathlib.Path) -> None:
    run = make_run(UPSCALERS[name])
    path = tmp_path / "net.stablehlo"
    assert inference.write_export(run, path) < 1e-5
    call = inference.load_exported(path)
    for shape in ((1, 12, 16, 3), (2, 20, 8, 3)):
        x = noise(*shape)
        close(np.asarray(call(x)), np.asarray(inference.bind_upscaler(run).apply(x)))


@pytest.mark.slow
def test_stablehlo_in_the_other_layout_and_of_one_size(tmp_path: pathlib.Path) -> None:
    run = make_run(MSRResNet(channels=8, blocks=1))
    with pytest.raises(ValueError, match="--size"):
        inference.export_stablehlo(run)
    path = tmp_path / "net.stablehlo"
    inference.write_export(run, path, size=(9, 14), layout="nchw", platforms=("cpu",))
    x = noise(1, 9, 14, 3)
    found = inference.load_exported(path)(x.transpose(0, 3, 1, 2))
    close(np.asarray(found).transpose(0, 2, 3, 1), np.asarray(inference.bind_upscaler(run).apply(x)))


def test_stablehlo_for_other_devices(tmp_path: pathlib.Path) -> None:
    run = make_run(EDSR(scale=2, channels=8, blocks=1))
    inference.write_export(run, tmp_path / "net.stablehlo", platforms=("cuda", "tpu"))
    exported = jax.export.deserialize(bytearray((tmp_path / "net.stablehlo").read_bytes()))
    assert exported.platforms == ("cuda", "tpu")
    with pytest.raises(ValueError, match="platform"):
        inference.load_exported(tmp_path / "net.stablehlo")(noise(1, 8, 8, 3))


@pytest.mark.slow
def test_stablehlo_of_one_size_holds_each_platforms_own_forms(tmp_path: pathlib.Path) -> None:
    # One that takes means of the whole image.
    model = next(model for model in UPSCALERS.values() if model.receptive_radius is None)
    run, size = make_run(model.clone(channels=16)), (12, 16)

    def count(*platforms: str) -> tuple[int, int]:
        data = inference.export_stablehlo(run, size=size, platforms=platforms)
        text = jax.export.deserialize(bytearray(data)).mlir_module()
        return text.count("stablehlo.convolution("), text.count("stablehlo.dot_general")

    convolutions, products = count("cpu")
    # Winograd's and the matmuls that take means are CPUs' alone.
    assert products > 0
    for platform in ("cuda", "tpu"):
        assert count(platform)[0] > convolutions and count(platform)[1] == 0
    several = count("cpu", "cuda", "tpu")
    assert several[0] >= count("tpu")[0] and several[1] >= products
    path = tmp_path / "net.stablehlo"
    inference.write_export(run, path, size=size)
    x = noise(1, *size, 3)
    close(np.asarray(inference.load_exported(path)(x)), np.asarray(inference.bind_upscaler(run).apply(x)))


def test_an_exported_network_upscales_photos_in_tiles(tmp_path: pathlib.Path) -> None:
    run = make_run(EDSR(scale=2, channels=8, blocks=2))
    path = tmp_path / "net.stablehlo"
    inference.write_export(run, path)
    image = (noise(40, 56, 3) * 255).astype(np.uint8)
    found = inference.upscale(inference.load_exported(path), image, tile=16, halo=8)
    wanted = inference.upscale(run, image)
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1


def test_what_differs_is_not_written(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(EDSR(scale=2, channels=8, blocks=1))
    other = make_run(EDSR(scale=2, channels=8, blocks=1))
    other.params["generator"] = jax.tree.map(lambda leaf: leaf * 1.01, other.params["generator"])
    data = inference.export_stablehlo(other)
    monkeypatch.setattr(exporting, "export_stablehlo", lambda *_, **__: data)
    with pytest.raises(RuntimeError, match="differs from the model"):
        inference.write_export(run, tmp_path / "net.stablehlo")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_the_converter_gets_wrong_is_not_written(tmp_path: pathlib.Path) -> None:
    run = make_run(UNet(scale=1, channels=4, blocks=(1, 1, 1, 1)))
    with pytest.raises(RuntimeError, match="onnxruntime does not run the converted UNet"):
        inference.write_export(run, tmp_path / "net.onnx", size=(32, 32))
    assert not list(tmp_path.iterdir())


def test_bad_input(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(EDSR(scale=2, channels=8, blocks=1))
    with pytest.raises(ValueError, match=r"\.onnx or \.stablehlo"):
        inference.write_export(run, tmp_path / "net.pb")
    with pytest.raises(ValueError, match="layout must be nhwc or nchw, got 'chw'"):
        inference.export_onnx(run, layout="chw")
    with pytest.raises(ValueError, match="platforms must be some of cpu, cuda, rocm, tpu, got abacus"):
        inference.export_stablehlo(run, platforms=("cpu", "abacus"))
    with pytest.raises(ValueError, match="choose one of its scales"):
        inference.export_stablehlo(make_run(MDSR(channels=4, blocks=1)), scale=7)
    (tmp_path / "no.stablehlo").write_bytes(b"not what jax wrote")
    with pytest.raises(ValueError, match="holds no function"):
        inference.load_exported(tmp_path / "no.stablehlo")
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ImportError, match=r"vaesr\[export\]"):
        inference.export_stablehlo(run)


@pytest.mark.slow
def test_the_command(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "edsr.onnx"
    assert cli.main(["export", str(edsr_folder), "-o", str(target), "--size", "24x16"]) == 0
    assert "of the network's" in capsys.readouterr().out
    assert onnx_session(target.read_bytes()).run(None, {"input": noise(1, 3, 16, 24)})[0].shape[2:] == (
        32,
        48,
    )
    assert cli.main(["export", str(edsr_folder), "-o", str(tmp_path / "edsr.tflite")]) == 2
    assert "must end in .onnx, .stablehlo" in capsys.readouterr().err
