"""How long fuzzers search: `VAESR_FUZZ_SECONDS=600 pytest -m slow ...` gives each of their tests that long.

Without it they try what they always try. With it every round has a seed of its own, which pytest shows where
the round fails; `VAESR_FUZZ_SEED=...` alone repeats it.
"""

import os
import random
import sys
import time
from collections.abc import Iterator

SECONDS = float(os.environ.get("VAESR_FUZZ_SECONDS", "0"))
SEED = os.environ.get("VAESR_FUZZ_SEED")
FRESH = SECONDS > 0 or SEED is not None


def seeds(fixed: int) -> Iterator[int]:
    """The fixed seed; or that of `VAESR_FUZZ_SEED`; or new ones until the time is over, at least one."""
    if not SECONDS:
        yield fixed if SEED is None else int(SEED)
        return
    end = time.monotonic() + SECONDS
    while True:
        seed = random.SystemRandom().randrange(2**32)
        # Not to `sys.stderr`, which is part of what is tested.
        print(f"VAESR_FUZZ_SEED={seed}", file=sys.__stderr__, flush=True)
        yield seed
        if time.monotonic() >= end:
            return


# Words that no option expects, or that one in many does.
VALUES = (
    "nan", "-inf", "1e200", "1e400", "-1", "0", "0x10", "1e-320", "99999999999999999999", "", " ", "٣",
    "a" * 5000,
    "/dev/null", "/dev/null/x", "~nobody/x", "\udcff", "*", "[", "../..", "-",
)  # fmt: skip
