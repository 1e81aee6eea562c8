"""The presets of NVAE's paper: what each trains, lowered for accelerators."""

import dataclasses

import pytest
from traced_steps import traced_step

from experiments import nvae
from vaesr import forms
from vaesr.models.nvae import NVAE, PRESETS

# The images of each preset's data, which are not at hand.
PAPERS = {
    "paper": "28x28x1",
    "paper_cifar10": "32x32x3",
    "paper_celeba64": "218x178x3",
    "paper_imagenet32": "32x32x3",
    "paper_celebahq256": "256x256x3",
    "paper_ffhq256": "256x256x3",
}


def test_all_that_the_paper_publishes_are_presets():
    assert set(PAPERS) == {name for name in nvae.PRESETS if name.startswith("paper")}
    # The images' shape is the data's.
    trained = [nvae.PRESETS[name].model for name in PAPERS]
    assert trained == [published.clone(image_shape=NVAE.image_shape) for published in PRESETS.values()]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_a_published_presets_step_is_lowered_for_accelerators(name):
    preset = nvae.PRESETS[name]
    config = dataclasses.replace(preset, data=f"random:4x{PAPERS[name]}", batch_size=4, dtype="bfloat16")
    traced = traced_step(nvae.build(config), config)
    for platform in ("tpu", "cuda"):
        assert not forms.made_for_cpus(traced, platform=platform), platform
