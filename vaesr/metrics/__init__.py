"""Image quality under an explicit measuring protocol."""

from vaesr.metrics.protocol import DIV2K_VALIDATION, RGB, SR_BENCHMARK, Protocol
from vaesr.metrics.quality import psnr, ssim

__all__ = ["DIV2K_VALIDATION", "RGB", "SR_BENCHMARK", "Protocol", "psnr", "ssim"]
