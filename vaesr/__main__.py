"""`python -m vaesr` is the `vaesr` command."""

import atexit
import os
import sys

from vaesr import interrupts


def main() -> int:
    """Runs the command as a process of its own: stopped by Ctrl-C at once, from its first moment on."""
    interrupts.end_at_once()
    codes: list[int] = []
    # The first to be registered is the last to be called.
    atexit.register(_end, codes)
    from vaesr.app import cli

    codes.append(cli.main())
    return codes[0]


def _end(codes: list[int]) -> None:
    """Ends the process without taking a million objects apart one by one, which would be half a second.

    What is to be done at exit has been done by now. Where the command raised, or its last words find no one
    who reads them, Python ends it and says so.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # closed; or no such stream, as without a console
        return
    if codes:
        os._exit(codes[0])


if __name__ == "__main__":
    sys.exit(main())
