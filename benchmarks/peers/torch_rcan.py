"""RCAN in torch, trained with L1 on the scale of 0 to 255."""

from typing import Any

import torch.nn.functional as F

from benchmarks.peers import torch_common, torch_sr

LAYOUTS = torch_common.IMAGE_LAYOUTS
output = torch_sr.output


def trainer(training: Any, how: torch_common.How) -> torch_common.Trainer:
    """See `benchmarks.peers`."""
    return torch_sr.pixel_trainer(training, how, lambda x_sr, x_hr: 255.0 * F.l1_loss(x_sr, x_hr))
