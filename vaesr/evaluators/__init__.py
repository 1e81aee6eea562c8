"""What an experiment measures and draws of its network: photos, bounds, codes, uncertainty, latents."""

from vaesr.evaluators.bounds import (
    bounds_of_images,
    compile_bound,
    exact_pca_log_likelihood,
    mean_bounds,
    measured_images,
    posteriors,
    split_batches,
    split_labels,
)
from vaesr.evaluators.classification import METHOD_TITLES, ClassificationEvaluator
from vaesr.evaluators.code_bits import CodeBits, pixel_bits, unigram_bits
from vaesr.evaluators.codes import (
    CodeEvaluator,
    code_statistics,
    encode_splits,
    level_names,
    pca_errors,
    water_filling,
)
from vaesr.evaluators.curves import CurveEvaluator
from vaesr.evaluators.generative import feature_distances
from vaesr.evaluators.groups import (
    compile_group_kl,
    count_active,
    group_kls,
    nearest,
    save_group_figure,
    save_neighbours,
)
from vaesr.evaluators.latents import save_latent_figures
from vaesr.evaluators.means import function_of_mean, means_with_errors
from vaesr.evaluators.pairs import (
    Metric,
    PhotoPair,
    PhotoPairs,
    UpscaleOne,
    compare_pair,
    measure_pair,
    measure_pairs,
    name_by_scale,
    photo_pairs,
    tiled_upscaler,
)
from vaesr.evaluators.photos import PhotoEvaluator, perceptual_metrics
from vaesr.evaluators.uncertainty import (
    Members,
    Predict,
    detect_foreign,
    foreign_images,
    measure_members,
    predict_images,
    predict_split,
)

__all__ = [
    "METHOD_TITLES",
    "ClassificationEvaluator",
    "CodeBits",
    "CodeEvaluator",
    "CurveEvaluator",
    "Members",
    "Metric",
    "PhotoEvaluator",
    "PhotoPair",
    "PhotoPairs",
    "Predict",
    "UpscaleOne",
    "bounds_of_images",
    "code_statistics",
    "compare_pair",
    "compile_bound",
    "compile_group_kl",
    "count_active",
    "detect_foreign",
    "encode_splits",
    "exact_pca_log_likelihood",
    "feature_distances",
    "foreign_images",
    "function_of_mean",
    "group_kls",
    "level_names",
    "mean_bounds",
    "means_with_errors",
    "measure_members",
    "measure_pair",
    "measure_pairs",
    "measured_images",
    "name_by_scale",
    "nearest",
    "pca_errors",
    "perceptual_metrics",
    "photo_pairs",
    "pixel_bits",
    "posteriors",
    "predict_images",
    "predict_split",
    "save_group_figure",
    "save_latent_figures",
    "save_neighbours",
    "split_batches",
    "split_labels",
    "tiled_upscaler",
    "unigram_bits",
    "water_filling",
]
