"""Networks in configurations: flags with words, JSON and back, run folders of earlier versions."""

import dataclasses
import importlib
import json
import pathlib
import pkgutil
import re
import typing

import pytest

import experiments
from vaesr import models, runs
from vaesr.models.critic import Critic
from vaesr.models.srcnn import SRCNN
from vaesr.models.unet import UNet
from vaesr.runs import build_model, describe_model
from vaesr.runs.flags import cli
from vaesr.runs.folder import as_json, claim, with_stored

EXPERIMENTS: dict[str, typing.Any] = {
    info.name: importlib.import_module(f"experiments.{info.name}")
    for info in pkgutil.iter_modules(experiments.__path__)
    if not info.ispkg and not info.name.startswith("_")
}
MODELS = [
    pytest.param(model, id=f"{info.name}-{name}")
    for info in pkgutil.iter_modules(models.__path__)
    for name, model in getattr(importlib.import_module(f"vaesr.models.{info.name}"), "PRESETS", {}).items()
]
# What `config.json` said of each experiment's "model" before networks were their own configurations.
BEFORE = {
    "bnn": "architecture hidden activation input_shift input_scale precision",
    "decrappify": "scale blocks bottleneck channels style factor norm self_attention output_range residual",
    "deoldify": "scale blocks bottleneck channels style factor norm self_attention output_range residual",
    "edsr": "scale channels blocks residual_scale remat scan precision",
    "esrgan": "scale channels growth blocks remat precision",
    "mdsr": "scales channels blocks residual_scale remat scan precision",
    "rcan": "scale channels groups blocks reduction remat precision",
    "srcnn": "scale kernels widths precision",
    "srgan": "scale channels blocks precision",
    "vqvae": "levels factor channels res_blocks res_channels codes code_dim quantiser update decay initial "
    "revive_below cosine drop_finer",
}
BEFORE["vqvae2"] = BEFORE["vqvae"]


def words_by_flag(page: str) -> dict[str, str]:
    """What a help page says of each flag, without its kinds of values and its default."""
    found: dict[str, str] = {}
    flag = ""
    for line in page.splitlines():
        text = line.strip("│ ")
        if line.startswith("╭"):
            flag = ""
        elif re.match(r"--?[a-z]", text):
            flag = text.split()[0].rstrip(",")
            found[flag] = text
        elif flag:
            found[flag] += " " + text
    values = r"\(default:.*|\{[^}]*\}|--[-.\w]+"
    return {flag: re.sub(values, "", text) for flag, text in found.items()}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_flag_has_words(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli(EXPERIMENTS[name].PRESETS, ["--help"])
    found = words_by_flag(capsys.readouterr().out)
    assert len(found) > 20
    assert not [flag for flag, words in found.items() if not re.search("[a-z]{3}", words)]
    hidden = ("parent", "name", "dtype", "axis-name", "conv-form", "image-shape", "keep-luma")
    assert not [flag for flag in found if flag.startswith("--model.") and flag[8:] in hidden]


@pytest.mark.parametrize("model", MODELS)
def test_models_survive_json(model: typing.Any) -> None:
    assert build_model(json.loads(json.dumps(describe_model(model)))) == model


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_configurations_survive_json(name: str, tmp_path: pathlib.Path) -> None:
    presets = EXPERIMENTS[name].PRESETS
    for preset, config in presets.items():
        content = {"experiment": f"experiments.{name}", "preset": "smoke", "config": as_json(config)}
        (tmp_path / "config.json").write_text(json.dumps(content))
        found, _ = with_stored(
            f"experiments.{name}", presets, ["smoke", "--resume", "--workdir", str(tmp_path)]
        )
        assert found["smoke"] == dataclasses.replace(config, workdir=tmp_path), preset


def resumes(name: str, stored: dict[str, typing.Any], folder: pathlib.Path, expected: typing.Any) -> None:
    """The command line with --resume alone takes a run folder of this configuration for its own."""
    content = {"experiment": f"experiments.{name}", "preset": "smoke", "config": stored}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text("{}\n")
    arguments = ["smoke", "--resume", "--workdir", str(folder)]
    found, _ = with_stored(f"experiments.{name}", EXPERIMENTS[name].PRESETS, arguments)
    _, config = cli(found, arguments)
    assert as_json(config) | {"workdir": None, "resume": False} == as_json(expected)
    claim(folder, config)


@pytest.mark.parametrize("name", BEFORE)
def test_folders_of_earlier_versions_resume(name: str, tmp_path: pathlib.Path) -> None:
    presets = EXPERIMENTS[name].PRESETS
    for preset in presets.values():
        stored = as_json(preset)
        keys = BEFORE[name].split()
        assert set(keys) <= set(stored["model"])
        stored["model"] = {key: stored["model"][key] for key in keys}
        if "critic" in stored:
            stored["critic"] |= stored["critic"].pop("model")
        if "perceptual_metric" in stored:
            stored["judge"] = stored.pop("perceptual_metric")
        if "discriminator" in stored:
            stored["gan"] |= stored.pop("discriminator")
        resumes(name, stored, tmp_path, preset)


@pytest.mark.parametrize("name", ["estimators", "rate_distortion"])
def test_fields_of_earlier_names_resume(name: str, tmp_path: pathlib.Path) -> None:
    """Their networks' fields stood among the shared ones, and were two."""
    presets = EXPERIMENTS[name].PRESETS
    for preset in presets.values():
        stored = as_json(preset)
        own = stored.pop("model")
        stored |= {"latent": own["latent"], "hidden": own["hidden"]}
        resumes(name, stored, tmp_path, preset)


def test_the_command_line_changes_one_field_of_the_preset() -> None:
    presets = EXPERIMENTS["edsr"].PRESETS
    _, config = cli(presets, ["smoke", "--model.blocks", "3", "--model.scan"])
    assert config.model == presets["smoke"].model.clone(blocks=3, scan=True)
    _, config = cli(EXPERIMENTS["decrappify"].PRESETS, ["smoke", "--model.output-range", "None"])
    assert config.model.output_range is None and config.model.scale == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("edsr", ["--model.dtype", "float32"]),
        ("bnn", ["--model.outputs", "3"]),
        ("vqvae", ["--model.image-shape", "8", "8", "3"]),
        ("edsr", ["--model.precision", "low"]),
    ],
)
def test_what_is_no_flag_is_refused(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli(EXPERIMENTS[name].PRESETS, ["smoke", *words])
    assert stopped.value.code == 2 and words[0] in capsys.readouterr().err


def test_fields_that_build_sets_are_not_stored() -> None:
    stored = as_json(EXPERIMENTS["bnn"].PRESETS["default"])["model"]
    assert not {"input_shape", "outputs", "dropout", "dtype", "parent", "name"} & set(stored)
    assert as_json(EXPERIMENTS["deoldify"].PRESETS["default"])["model"].keys().isdisjoint({"keep_luma"})


def test_descriptions_with_earlier_names_are_read() -> None:
    fields = {"scale": 2, "kernels": [9, 1, 5], "channels": [64, 32], "dtype": "float32", "conv_form": "auto"}
    assert build_model({"module": "srcnn", "class": "SRCNN", "fields": fields}) == SRCNN()
    unet = {"scale": 2, "form": "loop", "axis_name": None}
    assert build_model({"module": "unet", "class": "UNet", "fields": unet}) == UNet(scale=2, conv_form="loop")
    critic = {"channels": 4, "form": "loop"}
    assert build_model({"module": "critic", "class": "Critic", "fields": critic}) == Critic(
        4, conv_form="loop"
    )


def test_fixed_fields_stand_beside_the_type() -> None:
    fixed = runs.Fixed("image_shape", "outputs")
    assert fixed == runs.Fixed("outputs", "image_shape") and fixed.names == {"image_shape", "outputs"}
