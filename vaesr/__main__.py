"""`python -m vaesr` is the `vaesr` command."""

import atexit
import os
import sys

from vaesr import interrupts


def main() -> int:
    """Runs the command: stopped by Ctrl-C at once, from its first moment on."""
    interrupts.end_at_once()
    from vaesr.app import cli

    return cli.main()


def run() -> int:
    """Runs the command as a process of its own, which ends with it; what the console script calls."""
    codes: list[int] = []
    # What is registered first is called last: after all that the command and its libraries register.
    atexit.register(_end, codes)
    codes.append(main())
    return codes[0]


def _end(codes: list[int]) -> None:
    """Ends the process without taking a million objects apart one by one, which would be half a second.

    What the command and its libraries do at exit has been done by now. Where it raised, or its last words
    find no one who reads them, Python ends it and says so.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # closed; or no such stream, as without a console
        return
    if codes:
        os._exit(codes[0])


if __name__ == "__main__":
    sys.exit(run())
