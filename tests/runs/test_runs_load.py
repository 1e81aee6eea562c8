"""Descriptions of models, and runs read back from their folders."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from vaesr.models.edsr import EDSR
from vaesr.models.edsr import PRESETS as EDSR_PRESETS
from vaesr.models.mdsr import MDSR
from vaesr.models.vae import PRESETS as VAE_PRESETS
from vaesr.runs import Run, build_model, describe_model, load_run


@pytest.mark.parametrize(
    "model",
    [
        *EDSR_PRESETS.values(),
        *VAE_PRESETS.values(),
        MDSR(scales=(2, 4), dtype=jnp.bfloat16),
        EDSR(dtype=jnp.float16),
        EDSR(precision="highest"),
    ],
)
def test_models_survive_json(model: nn.Module) -> None:
    description = json.loads(json.dumps(describe_model(model)))
    assert build_model(description) == model


@pytest.mark.parametrize(
    "description, words",
    [
        ({"module": "edsr"}, "described by"),
        ({"module": "../edsr", "class": "EDSR"}, "file name"),
        ({"module": "os.path", "class": "EDSR"}, "file name"),
        ({"module": "esrgan9", "class": "EDSR"}, "another version"),
        ({"module": "edsr", "class": "EDSX"}, "did you mean 'EDSR'"),
        ({"module": "edsr", "class": "Any"}, "has no model"),
        ({"module": "edsr", "class": "EDSR", "fields": {"chanels": 3}}, "did you mean 'channels'"),
        ({"module": "edsr", "class": "EDSR", "fields": {"parent": None}}, "no field 'parent'"),
        ({"module": "edsr", "class": "EDSR", "fields": {"dtype": "float31"}}, "dtype must name"),
        ({"module": "edsr", "class": "EDSR", "fields": {"dtype": "einsum"}}, "dtype must name"),
        ({"module": "edsr", "class": "EDSR", "fields": {"dtype": 1e9}}, "dtype must name"),
        ({"module": "edsr", "class": {}}, "has no model"),
        ({"module": "edsr", "class": ["EDSR"]}, "has no model"),
    ],
)
def test_wrong_descriptions_say_what_is_wrong(description: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_model(description)


def test_only_plain_models_of_ours_are_described() -> None:
    with pytest.raises(ValueError, match=r"vaesr\.models"):
        describe_model(nn.Dense(3))
    with pytest.raises(ValueError, match=r"EDSR\.channels"):
        describe_model(EDSR(channels=jnp.ones(2)))  # type: ignore[arg-type]


def test_a_run_is_read_back(edsr_folder: pathlib.Path) -> None:
    run = load_run(edsr_folder)
    assert run.step == 7 and run.player == "edsr" and run.model == EDSR(scale=2, channels=8, blocks=2)
    assert run.apply(jnp.full((1, 6, 5, 3), 0.5)).shape == (1, 12, 10, 3)
    half = run.with_dtype(jnp.bfloat16)
    assert half.model.dtype == jnp.bfloat16 and half.with_dtype(jnp.bfloat16) is half
    assert jax.tree.structure(load_run(edsr_folder, "latest").params) == jax.tree.structure(run.params)


def test_descriptions_from_before_a_field_take_its_default() -> None:
    description = describe_model(MDSR(blocks=2))
    del description["fields"]["precision"]
    assert build_model(description) == MDSR(blocks=2, precision="default")


def test_precise_runs_multiply_in_full_float32(edsr_folder: pathlib.Path) -> None:
    run = load_run(edsr_folder)
    image = jnp.full((1, 6, 5, 3), 0.5)

    def precisions(run: Run) -> list[str]:
        lines = str(jax.make_jaxpr(run.apply)(image)).splitlines()
        return [line.split("precision=")[1].strip() for line in lines if "precision=" in line]

    run = dataclasses.replace(run, model=run.model.clone(conv_form="direct", dtype=jnp.bfloat16))
    assert set(precisions(run)) == {"None"}
    precise = run.precise()
    assert precise.model.dtype == jnp.float32 and precise.precise() is precise
    assert len(precisions(precise)) == 8 and all("HIGHEST" in words for words in precisions(precise))
    bare = dataclasses.replace(run, model=nn.Sequential([jnp.sin]))
    assert bare.precise() is bare  # it has neither field


def test_folders_that_are_no_runs(edsr_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run folder"):
        load_run(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match='no "model"'):
        load_run(tmp_path)
    shutil.copy(edsr_folder / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="checkpoints"):
        load_run(tmp_path)
    with pytest.raises(ValueError, match="which must be"):
        load_run(edsr_folder, "newest")  # type: ignore[arg-type]


def test_absurd_sizes_of_strangers_folders_are_refused(
    edsr_folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(edsr_folder, folder)
    content = json.loads((folder / "config.json").read_text())
    content["model"]["fields"]["blocks"] = 10**9
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"describes a network of blocks 1000000000, and holds \d+ numbers"):
        load_run(folder)
    monkeypatch.setattr("vaesr.training.checkpoint._GROWTH", 0)
    monkeypatch.setattr("vaesr.training.checkpoint._SPARE", 1000)
    with pytest.raises(ValueError, match=r"checkpoint 7 of .* claims \d+ bytes and has \d+"):
        load_run(edsr_folder)
