"""SRVGGNetCompact: published sizes and names, receptive field."""

import pytest
from small_networks import count_parameters

from vaesr.models.srvgg import PRESETS, SRVGGNetCompact

COUNTS = {"general_x4v3": 1_213_296, "animevideov3": 621_424}
SMALL_UPSCALERS = {"srvgg": SRVGGNetCompact(scale=2, channels=6, convs=2)}
STORED = {"srvgg x2": SRVGGNetCompact(2, 8, 3), "srvgg x1": SRVGGNetCompact(1, 8, 2)}
WRITTEN = {"srvgg": (PRESETS["general_x4v3"], 101, ("body.1.weight", "body.66.bias"))}
PEERS = {SRVGGNetCompact: ("SRVGGNetCompact", ("scale", "channels", "convs"))}


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_presets_have_the_published_parameter_count(name):
    assert set(PRESETS) == set(COUNTS)
    assert count_parameters(PRESETS[name]) == COUNTS[name]


def test_receptive_radius_of_the_published_network():
    assert PRESETS["animevideov3"].receptive_radius == 18
