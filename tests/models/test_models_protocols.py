"""What all networks have in common: words for their fields, and what other rooms ask of them."""

import dataclasses
import importlib
import math
import pkgutil
import subprocess
import sys
import typing

import docstring_parser
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from vaesr import models
from vaesr.models.hierarchical_vae import HierarchicalVAE
from vaesr.models.pixelcnn import PixelCNN
from vaesr.models.pixelsnail import PixelSNAIL
from vaesr.models.vae import VAE
from vaesr.models.vqvae import VQVAE

PRESETS = {
    f"{info.name}.{name}": model
    for info in pkgutil.iter_modules(models.__path__)
    for name, model in getattr(importlib.import_module(f"vaesr.models.{info.name}"), "PRESETS", {}).items()
}
KINDS = sorted({type(model) for model in PRESETS.values()}, key=lambda kind: kind.__name__)
UPSCALERS = [kind for kind in KINDS if {"scale", "scales"} & {f.name for f in dataclasses.fields(kind)}]


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_words_and_choices_are_types(kind: type[nn.Module]) -> None:
    words = {}
    for base in reversed(kind.__mro__):  # a field has words where it is declared
        if issubclass(base, nn.Module) and base is not nn.Module:
            words |= {p.arg_name: p.description for p in docstring_parser.parse_from_object(base).params}
    fields = [f.name for f in dataclasses.fields(kind) if f.name not in ("parent", "name")]
    assert set(words) == set(fields)
    assert all(words.values())
    hints = typing.get_type_hints(kind)
    free = [n for n in fields if hints[n] is str]
    assert not free, f"{kind.__name__}.{free} are words of any kind; name them with Literal"


@pytest.mark.parametrize("kind", KINDS)
def test_modules_are_configurations(kind: type[nn.Module]) -> None:
    """They compare, hash and copy as frozen dataclasses do."""
    model = kind()
    assert model == kind() and hash(model) == hash(kind())
    assert dataclasses.replace(model, dtype=jnp.bfloat16) == model.clone(dtype=jnp.bfloat16) != model


@pytest.mark.parametrize("kind", UPSCALERS)
def test_upscalers_say_all_that_upscaling_asks(kind: type[nn.Module]) -> None:
    model: typing.Any = kind()
    several = "scales" in {f.name for f in dataclasses.fields(kind)}
    assert isinstance(model, models.MultiScaleUpscaler) == several
    assert isinstance(model, models.Upscaler) == (not several)
    assert isinstance(model, models.Typed) and isinstance(model, models.Precise)
    assert isinstance(model, models.Convolutional)
    assert isinstance(model.channels, int) and isinstance(model.wide_at_output, bool)
    assert model.receptive_radius is None or model.receptive_radius > 0
    assert model.input_multiple >= 1


def test_autoencoders_and_priors_say_what_they_are() -> None:
    kinds = {
        models.Autoencoder: {VAE, HierarchicalVAE},
        models.LatentVariableModel: {HierarchicalVAE},
        models.CodeAutoencoder: {VQVAE},
        models.CodePrior: {PixelCNN, PixelSNAIL},
    }
    for protocol, expected in kinds.items():
        found = {kind for kind in KINDS if isinstance(kind(), protocol)}
        assert found >= expected  # others may join
        assert not found & {kind for kinds_ in kinds.values() for kind in kinds_} - expected


def test_the_room_itself_imports_no_network() -> None:
    script = "import sys, vaesr.models; print([n for n in sys.modules if 'jax' in n or 'vaesr.models.' in n])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # torchvision's without their dense layers.
        ("feature_networks.lpips_alex", 61_100_840 - 58_631_144),
        ("feature_networks.lpips_vgg", 138_357_544 - 123_642_856),
        ("feature_networks.vgg19", 143_667_240 - 123_642_856),
        ("feature_networks.lpips_squeeze", 1_235_496 - 513_000),
        # Dense layers of 784 inputs and 10 outputs.
        ("classifier.blundell_400", 785 * 400 + 401 * 400 + 401 * 10),
        ("classifier.blundell_800", 785 * 800 + 801 * 800 + 801 * 10),
        ("classifier.blundell_1200", 785 * 1200 + 1201 * 1200 + 1201 * 10),
        # As "iwae_2layer", but q(z_1) sees z_2, and what leads to q(z_2) sees 200 features in place of z_1.
        ("hierarchical_vae.ladder_2layer", 521_084 + 2 * (100 * 100 + 100) + 100 * 100),
    ],
)
def test_parameter_counts(name: str, published: int) -> None:
    model = PRESETS[name]
    shape = getattr(model, "input_shape", getattr(model, "image_shape", (64, 64, 3)))
    made = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(made)) == published
