"""Image quality under an explicit measuring protocol, of images and of sets; calibration of classes."""

from vaesr.metrics.agreement import Agreement, agreement
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
from vaesr.metrics.generative import (
    FeatureStatistics,
    KernelDistance,
    Manifolds,
    feature_statistics,
    frechet_distance,
    kernel_distance,
    merge_statistics,
    precision_recall,
)
from vaesr.metrics.gradients import gmsd
from vaesr.metrics.information import iw_ssim
from vaesr.metrics.kernels import kernel_psnr
from vaesr.metrics.latents import active_units
from vaesr.metrics.naturalness import (
    PIRM,
    NiqeModel,
    fit_niqe_model,
    load_niqe_model,
    niqe,
    perceptual_index,
)
from vaesr.metrics.perceptual import DistsNetwork, LpipsNetwork, dists, lpips
from vaesr.metrics.phase import fsim, fsimc
from vaesr.metrics.protocol import DIV2K_VALIDATION, GREY, MATLAB_GREY, RGB, SR_BENCHMARK, Protocol
from vaesr.metrics.quality import SsimComponents, ms_ssim, psnr, ssim, ssim_components
from vaesr.metrics.ranking import borda_fusion, isotonic_calibration, rank, reciprocal_rank_fusion
from vaesr.metrics.saliency import vsi
from vaesr.metrics.sparse import fit_sff_detector, load_sff_detector, sff

__all__ = [
    "DIV2K_VALIDATION",
    "GREY",
    "MATLAB_GREY",
    "PIRM",
    "RGB",
    "SR_BENCHMARK",
    "Agreement",
    "DistsNetwork",
    "FeatureStatistics",
    "KernelDistance",
    "LpipsNetwork",
    "Manifolds",
    "NiqeModel",
    "Protocol",
    "ReliabilityBins",
    "SsimComponents",
    "active_units",
    "agreement",
    "auroc",
    "average_prediction",
    "borda_fusion",
    "brier_score",
    "classification_error",
    "dists",
    "expected_calibration_error",
    "feature_statistics",
    "fit_niqe_model",
    "fit_sff_detector",
    "frechet_distance",
    "fsim",
    "fsimc",
    "gmsd",
    "isotonic_calibration",
    "iw_ssim",
    "kernel_distance",
    "kernel_psnr",
    "label_nll",
    "load_niqe_model",
    "load_sff_detector",
    "lpips",
    "merge_statistics",
    "ms_ssim",
    "mutual_information",
    "niqe",
    "perceptual_index",
    "precision_recall",
    "predictive_entropy",
    "psnr",
    "rank",
    "reciprocal_rank_fusion",
    "reliability_bins",
    "sff",
    "ssim",
    "ssim_components",
    "vsi",
]
