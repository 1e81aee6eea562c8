"""Figures, curves and the HTML page of a run folder. Every figure is a uint8 array `[H, W, 3]`."""

from vaesr.files.rows import read_metrics
from vaesr.reports.calibration import (
    entropy_histograms,
    pruning_curve,
    regression_bands,
    reliability_diagram,
)
from vaesr.reports.compare import RunGroup, compare_runs, group_runs
from vaesr.reports.curves import error_name, format_results, plot_curves
from vaesr.reports.grids import image_grid, labelled_grid, save_grid, save_image
from vaesr.reports.latents import (
    group_activity,
    latent_activity,
    latent_manifold,
    latent_scatter,
    latent_traversal,
    reconstruction_figure,
)
from vaesr.reports.page import write_report
from vaesr.reports.panels import Line, Panel, plot_panels
from vaesr.reports.rate_distortion import rate_distortion_figure
from vaesr.reports.scores import scores_page
from vaesr.reports.strips import busiest_crop, comparison_strip, stack_strips

__all__ = [
    "Line",
    "Panel",
    "RunGroup",
    "busiest_crop",
    "compare_runs",
    "comparison_strip",
    "entropy_histograms",
    "error_name",
    "format_results",
    "group_activity",
    "group_runs",
    "image_grid",
    "labelled_grid",
    "latent_activity",
    "latent_manifold",
    "latent_scatter",
    "latent_traversal",
    "plot_curves",
    "plot_panels",
    "pruning_curve",
    "rate_distortion_figure",
    "read_metrics",
    "reconstruction_figure",
    "regression_bands",
    "reliability_diagram",
    "save_grid",
    "save_image",
    "scores_page",
    "stack_strips",
    "write_report",
]
