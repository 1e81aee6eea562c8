"""Host memory for XLA's CPU backend: keep what is freed instead of giving it back at every step."""

import ctypes
import sys

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Make glibc's malloc reuse large blocks; call it before anything imports JAX.

    XLA's CPU backend allocates a step's temporaries anew each time, by `mmap`, and the kernel clears every
    page again. For an EDSR step (300 MB of temporaries) that is a third of the time and more. The price: the
    process keeps its peak of memory until it ends.

    Returns:
        Whether the settings were accepted; False where the C library isn't glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = [(_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 0)]
    return all([mallopt(name, value) == 1 for name, value in settings])
