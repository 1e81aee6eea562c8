"""ESRGAN's two stages in torch, as BasicSR's are: the generator alone, then both players."""

from typing import Any

import torch.nn.functional as F

from benchmarks.peers import torch_common, torch_gan, torch_sr

LAYOUTS = torch_common.IMAGE_LAYOUTS
output = torch_sr.output


def trainer(training: Any, how: torch_common.How) -> Any:
    """See `benchmarks.peers`."""
    if training.folder == "gan":
        return torch_gan.trainer(training, how, "esrgan", "last")
    if training.folder:
        return None
    return torch_sr.pixel_trainer(training, how, F.l1_loss)
