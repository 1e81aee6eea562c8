"""The command from end to end, with tiny sizes, and without anything but the core dependencies."""

import importlib
import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import options, peaks, report, run, timing
from benchmarks.peers import torch_common
from benchmarks.suites import train

ROOT = pathlib.Path(__file__).parents[2]
EXTRAS = ("torch", "matplotlib", "tensorflow_datasets", "grain", "tyro", "tqdm", "PIL", "skimage", "sklearn")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vae.bench", "edsr"])
def test_one_model_can_be_asked_for(model):
    asked = run.parser().parse_args(["--model", model]).model
    (case,) = train.cases(options.Options(smoke=True, models=asked))
    assert case.name.startswith(model.partition(".")[0] + ":")


def test_suites_are_found():
    assert run.SUITES == ("input", "metrics", "sample", "startup", "tiles", "train", "vq")
    for name in run.SUITES:
        assert callable(importlib.import_module(f"benchmarks.suites.{name}").cases)


def test_what_no_suite_has_is_refused(capsys):
    assert run.main(["--suite", "metrics", "--model", "psnr,edsr", "--pin", "off"]) == 2
    said = capsys.readouterr().err
    assert "edsr given; expected some of psnr, ssim" in said


@pytest.mark.slow
def test_imports_need_only_core_dependencies():
    code = f"""
import sys
for name in {EXTRAS!r}:
    sys.modules[name] = None
import benchmarks.run, benchmarks.compare, benchmarks.peaks, benchmarks.suites.train, benchmarks.suites.input
from benchmarks import report
from benchmarks.peers import torch_common
assert not torch_common.available()
assert report.plot("x.png", [{{"status": "ok", "suite": "s"}}], title="") == "matplotlib is not installed"
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


@pytest.mark.slow
def test_smoke_run_without_torch(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch_common, "available", lambda: False)
    result = tmp_path / "result.json"
    arguments = ["--smoke", "--pin", "off", "--samples", "2", "--peer", "torch", "--model", "edsr"]
    code = run.main([*arguments, "--suite", "train", "--json", str(result)])
    out = capsys.readouterr().out
    assert code == 0
    assert "skipped: torch not installed" in out
    found = report.read_json(result)
    rows = report.measured(found["rows"])
    assert {r["suite"] for r in rows} == {"peaks", "train"}
    assert all(len(r["samples"][clock]) >= 2 for r in rows for clock in ("wall_s", "cpu_s"))
    assert all(all(r["checks"].values()) for r in rows)
    assert str(tmp_path) not in result.read_text()
    assert found["environment"]["pinned"] is False
    json.dumps(found)


def test_disagreeing_sides_are_not_timed():
    def never(calls):
        raise AssertionError("was timed")

    sides = [timing.Side(name, name, never, 1) for name in ("vaesr", "torch")]
    case = timing.Case("train", "case", sides, parity={"output": 0.3, "passed": False})
    rows = run._rows(case, options.Options(), None)
    assert [r["status"] for r in rows] == ["refused", "refused"]
    assert "3.0e-01" in rows[0]["reason"]
    assert run._failed(rows)
    assert "refused" in report.table(rows)


@pytest.mark.parametrize("arguments", [["--suite", "trian"], ["--peer", "tf"], ["--model", ","]])
def test_unknown_names_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        run.main(arguments)
    assert caught.value.code == 2
    assert "expected some of" in capsys.readouterr().err


def test_bad_cores_are_refused():
    with pytest.raises(SystemExit, match="one of the cores"):
        run._core("9999")
    assert run._core("off") is None


def test_accelerator_guess(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    assert run._accelerator_likely()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert not run._accelerator_likely()


@pytest.mark.slow
def test_peaks_chain_without_overflow():
    for case in peaks.cases(peaks.sizes(accelerator=False, smoke=True)):
        case.sides[0].run(20)
        assert case.sides[0].work_per_step > 0
