"""Figures, curves and the HTML page of a run folder. Every figure is a uint8 array `[H, W, 3]`."""

from vaesr.reports.curves import plot_curves, read_metrics
from vaesr.reports.grids import image_grid, labelled_grid, save_grid, save_image
from vaesr.reports.latents import latent_manifold, latent_scatter, latent_traversal, reconstruction_figure
from vaesr.reports.page import write_report
from vaesr.reports.strips import busiest_crop, comparison_strip, stack_strips

__all__ = [
    "busiest_crop",
    "comparison_strip",
    "image_grid",
    "labelled_grid",
    "latent_manifold",
    "latent_scatter",
    "latent_traversal",
    "plot_curves",
    "read_metrics",
    "reconstruction_figure",
    "save_grid",
    "save_image",
    "stack_strips",
    "write_report",
]
