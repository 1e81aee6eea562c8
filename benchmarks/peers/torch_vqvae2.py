"""VQ-VAE-2 in torch: the autoencoder, and PixelSNAIL as the prior of its top map."""

from typing import Any

from benchmarks.peers import torch_common, torch_pixelsnail, torch_vqvae

LAYOUTS = torch_common.IMAGE_LAYOUTS


def output(training: Any) -> Any:
    """See `benchmarks.peers`."""
    return (torch_pixelsnail if training.folder else torch_vqvae).output(training)


def trainer(training: Any, how: torch_common.How) -> torch_common.Trainer | None:
    """See `benchmarks.peers`; the bottom map's prior, which sees the top map, has none."""
    return (torch_pixelsnail if training.folder else torch_vqvae).trainer(training, how)
