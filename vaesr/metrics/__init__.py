"""Image quality under an explicit measuring protocol; calibration and uncertainty of class probabilities."""

from vaesr.metrics.calibration import (
    ReliabilityBins,
    auroc,
    average_prediction,
    brier_score,
    classification_error,
    expected_calibration_error,
    label_nll,
    mutual_information,
    predictive_entropy,
    reliability_bins,
)
from vaesr.metrics.latents import active_units
from vaesr.metrics.protocol import DIV2K_VALIDATION, RGB, SR_BENCHMARK, Protocol
from vaesr.metrics.quality import psnr, ssim

__all__ = [
    "DIV2K_VALIDATION",
    "RGB",
    "SR_BENCHMARK",
    "Protocol",
    "ReliabilityBins",
    "active_units",
    "auroc",
    "average_prediction",
    "brier_score",
    "classification_error",
    "expected_calibration_error",
    "label_nll",
    "mutual_information",
    "predictive_entropy",
    "psnr",
    "reliability_bins",
    "ssim",
]
