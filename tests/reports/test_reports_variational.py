"""Figures of what VAEs use their codes for: activity bars and the rate/distortion plane."""

import numpy as np
import pytest

from vaesr import reports


def _count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture.astype(int) - colour).max(axis=-1) < 6).sum())


def test_active_latents_are_darker_than_the_others():
    blue, grey = (78, 121, 167), (197, 204, 214)
    some = reports.latent_activity(np.array([1.0, 1e-3, 0.5]), np.array([2.0, 1.0, 1.0]))
    assert some.dtype == np.uint8 and some.ndim == 3
    assert _count(some, blue) > 1000 and _count(some, grey) > 1000
    everything = reports.latent_activity(np.array([1.0, 1e-3, 0.5]), np.ones(3), threshold=1e-4)
    assert _count(everything, blue) > _count(some, blue)
    reports.latent_activity(np.zeros(1), np.zeros(1), title="nothing")
    reports.latent_activity(np.full(128, 0.3), np.ones(128))


def test_activity_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"must both be \[D\], got shapes \(2,\) and \(3,\)"):
        reports.latent_activity(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="must both be"):
        reports.latent_activity(np.ones((2, 2)), np.ones((2, 2)))


def test_the_plane_has_a_point_per_model():
    blue = (78, 121, 167)
    three = reports.rate_distortion_figure([30.0, 20.0, 5.0], [80.0, 90.0, 130.0], ["a", "b", "c"])
    one = reports.rate_distortion_figure([20.0], [90.0], ["b"], title="one")
    assert three.dtype == np.uint8 and three.ndim == 3
    assert 2.0 < _count(three, blue) / _count(one, blue) < 4.0
    reports.rate_distortion_figure([0.0, 0.0], [500.0, 500.0], ["a", "b"])  # collapsed models


def test_the_plane_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="one entry per model"):
        reports.rate_distortion_figure([1.0, 2.0], [1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="one entry per model"):
        reports.rate_distortion_figure([], [], [])
