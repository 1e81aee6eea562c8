"""Trained networks in use, as a library: upscale photos, sample, encode and decode, export.

Names are imported when first used, so that `vaesr --help` does not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaesr.inference.autoregressive import sample_codes
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
    from vaesr.inference.exporting import export_onnx, export_stablehlo, load_exported, write_export
    from vaesr.inference.interpolation import interpolate
    from vaesr.inference.latents import decode, encode, encode_noise, sample
    from vaesr.inference.networks import load_network
    from vaesr.inference.readjusted import readjust
    from vaesr.inference.tiling import BoundUpscaler, bind_upscaler
    from vaesr.inference.upscaling import upscale
from vaesr.inference.kernel_estimation import (
    DISCRIMINATOR,
    GENERATOR,
    KernelEstimate,
    KernelMode,
    check_photo,
    estimate_kernels,
    kernel_training,
    vote,
)
from vaesr.inference.zero_shot import (
    SMALLEST,
    UPSCALER,
    ZeroShot,
    back_project,
    finish_zero_shot,
    judged,
    upscale_zero_shot,
    zero_shot_training,
)

__all__ = [
    "DISCRIMINATOR",
    "GENERATOR",
    "SMALLEST",
    "UPSCALER",
    "BoundUpscaler",
    "KernelEstimate",
    "KernelMode",
    "ZeroShot",
    "back_project",
    "bind_upscaler",
    "check_photo",
    "choose_labels",
    "decode",
    "decode_maps",
    "encode",
    "encode_maps",
    "encode_noise",
    "estimate_kernels",
    "export_onnx",
    "export_stablehlo",
    "finish_zero_shot",
    "interpolate",
    "judged",
    "kernel_training",
    "load_exported",
    "load_network",
    "load_priors",
    "prior_folders",
    "readjust",
    "reject_samples",
    "sample",
    "sample_code_maps",
    "sample_codes",
    "sample_images",
    "upscale",
    "upscale_zero_shot",
    "vote",
    "write_export",
    "zero_shot_training",
]

_HOMES = {
    "autoregressive": ("sample_codes",),
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
    "exporting": ("export_onnx", "export_stablehlo", "load_exported", "write_export"),
    "interpolation": ("interpolate",),
    "latents": ("decode", "encode", "encode_noise", "sample"),
    "readjusted": ("readjust",),
    "tiling": ("BoundUpscaler", "bind_upscaler"),
    "networks": ("load_network",),
    "upscaling": ("upscale",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
