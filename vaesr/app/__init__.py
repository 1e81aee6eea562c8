"""The `vaesr` command: arguments, files, videos, evaluations, the page.

Names are imported when first used, so that `vaesr --help` does not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaesr.app.video import Clip, VideoFileError, upscale_video

__all__ = ["Clip", "VideoFileError", "upscale_video"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.video"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
