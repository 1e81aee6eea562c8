"""Trained runs in use: load one, upscale photos, sample, encode and decode; the `vaesr` command.

Names are imported when first used, so that `vaesr --help` does not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaesr.inference.autoregressive import sample_codes
    from vaesr.inference.bounds import (
        compile_bound,
        exact_pca_log_likelihood,
        mean_bounds,
        measured_images,
        posteriors,
        split_batches,
        split_labels,
    )
    from vaesr.inference.code_bits import CodeBits, pixel_bits, unigram_bits
    from vaesr.inference.code_sampling import (
        choose_labels,
        decode_maps,
        encode_maps,
        load_priors,
        prior_folders,
        reject_samples,
        sample_code_maps,
        sample_images,
    )
    from vaesr.inference.code_study import (
        CodeStudy,
        code_statistics,
        encode_splits,
        level_names,
        pca_errors,
        water_filling,
    )
    from vaesr.inference.converting import find_features, find_lpips
    from vaesr.inference.curve_study import CurveStudy
    from vaesr.inference.describe import build_model, describe_model
    from vaesr.inference.evaluation import (
        PhotoPair,
        PhotoPairs,
        Score,
        UpscaleOne,
        compare_pair,
        name_by_scale,
        photo_pairs,
        score_pair,
        score_pairs,
        tiled_upscaler,
    )
    from vaesr.inference.exporting import export_onnx, export_stablehlo, load_exported, write_export
    from vaesr.inference.images import ImageFileError, Photo, read_photo, write_photo
    from vaesr.inference.interpolation import interpolate
    from vaesr.inference.latent_figures import save_latent_figures
    from vaesr.inference.latents import decode, encode, sample
    from vaesr.inference.networks import Network, network_of
    from vaesr.inference.others import load_upscaler
    from vaesr.inference.photo_study import PhotoStudy, perceptual_opinions
    from vaesr.inference.runs import Run, load_run
    from vaesr.inference.study import METHOD_TITLES, ImageStudy
    from vaesr.inference.uncertainty import (
        Members,
        Predict,
        detect_foreign,
        foreign_images,
        predict_images,
        predict_split,
        score_members,
    )
    from vaesr.inference.upscaling import upscale
    from vaesr.inference.video import Clip, VideoFileError, upscale_video

__all__ = [
    "METHOD_TITLES",
    "Clip",
    "CodeBits",
    "CodeStudy",
    "CurveStudy",
    "ImageFileError",
    "ImageStudy",
    "Members",
    "Network",
    "Photo",
    "PhotoPair",
    "PhotoPairs",
    "PhotoStudy",
    "Predict",
    "Run",
    "Score",
    "UpscaleOne",
    "VideoFileError",
    "build_model",
    "choose_labels",
    "code_statistics",
    "compare_pair",
    "compile_bound",
    "decode",
    "decode_maps",
    "describe_model",
    "detect_foreign",
    "encode",
    "encode_maps",
    "encode_splits",
    "exact_pca_log_likelihood",
    "export_onnx",
    "export_stablehlo",
    "find_features",
    "find_lpips",
    "foreign_images",
    "interpolate",
    "level_names",
    "load_exported",
    "load_priors",
    "load_run",
    "load_upscaler",
    "mean_bounds",
    "measured_images",
    "name_by_scale",
    "network_of",
    "pca_errors",
    "perceptual_opinions",
    "photo_pairs",
    "pixel_bits",
    "posteriors",
    "predict_images",
    "predict_split",
    "prior_folders",
    "read_photo",
    "reject_samples",
    "sample",
    "sample_code_maps",
    "sample_codes",
    "sample_images",
    "save_latent_figures",
    "score_members",
    "score_pair",
    "score_pairs",
    "split_batches",
    "split_labels",
    "tiled_upscaler",
    "unigram_bits",
    "upscale",
    "upscale_video",
    "water_filling",
    "write_export",
    "write_photo",
]

_HOMES = {
    "bounds": (
        "compile_bound",
        "exact_pca_log_likelihood",
        "mean_bounds",
        "measured_images",
        "posteriors",
        "split_batches",
        "split_labels",
    ),
    "autoregressive": ("sample_codes",),
    "code_bits": (
        "CodeBits",
        "pixel_bits",
        "unigram_bits",
    ),
    "code_sampling": (
        "choose_labels",
        "decode_maps",
        "encode_maps",
        "load_priors",
        "prior_folders",
        "reject_samples",
        "sample_code_maps",
        "sample_images",
    ),
    "code_study": (
        "CodeStudy",
        "code_statistics",
        "encode_splits",
        "level_names",
        "pca_errors",
        "water_filling",
    ),
    "converting": ("find_features", "find_lpips"),
    "curve_study": ("CurveStudy",),
    "describe": ("build_model", "describe_model"),
    "evaluation": (
        "PhotoPair",
        "PhotoPairs",
        "Score",
        "UpscaleOne",
        "compare_pair",
        "name_by_scale",
        "photo_pairs",
        "score_pair",
        "score_pairs",
        "tiled_upscaler",
    ),
    "exporting": ("export_onnx", "export_stablehlo", "load_exported", "write_export"),
    "images": ("ImageFileError", "Photo", "read_photo", "write_photo"),
    "interpolation": ("interpolate",),
    "latent_figures": ("save_latent_figures",),
    "latents": ("decode", "encode", "sample"),
    "photo_study": ("PhotoStudy", "perceptual_opinions"),
    "others": ("load_upscaler",),
    "runs": ("Run", "load_run"),
    "study": ("METHOD_TITLES", "ImageStudy"),
    "uncertainty": (
        "Members",
        "Predict",
        "detect_foreign",
        "foreign_images",
        "predict_images",
        "predict_split",
        "score_members",
    ),
    "networks": ("Network", "network_of"),
    "upscaling": ("upscale",),
    "video": ("Clip", "VideoFileError", "upscale_video"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
