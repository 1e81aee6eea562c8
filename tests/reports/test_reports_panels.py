"""Panels of lines: what is asked for is drawn, and nonsense is refused."""

import numpy as np
import pytest

from vaesr import reports
from vaesr.reports import Line, Panel, plot_panels


def test_panels_are_drawn_in_their_colours(tmp_path):
    first = Line("measured", [1, 10, 100], [4.0, 2.0, 1.0], error=[0.1, 0.1, 0.1])
    known = Line("measured", [1, 10, 100], [4.0, 2.0, 1.0], dashed=True)
    other = Line("another", [1, 2], [1.0, np.nan])
    panels = [
        Panel("One", "x", "y", [first, known], log_x=True, log_y=True),
        Panel("Two", "x", "y", [other]),
    ]
    picture = plot_panels(panels, tmp_path / "panels.png", columns=1, caption="Two panels.")
    assert picture.dtype == np.uint8 and picture.ndim == 3 and (tmp_path / "panels.png").exists()
    for colour in ((0xD0, 0x47, 0x2E), (0x4E, 0x79, 0xA7)):
        assert (picture == np.array(colour, np.uint8)).all(axis=-1).any()
    wide = plot_panels(panels)
    assert wide.shape[1] > picture.shape[1] and wide.shape[0] < picture.shape[0]


def test_nothing_to_draw_is_refused():
    line = Line("a", [1], [1])
    for panels in ([], [Panel("t", "x", "y", [])]):
        with pytest.raises(ValueError, match="at least one"):
            reports.plot_panels(panels)
    with pytest.raises(ValueError, match="columns must be at least 1, got 0"):
        plot_panels([Panel("t", "x", "y", [line])], columns=0)
