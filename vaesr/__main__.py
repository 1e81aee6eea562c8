"""`python -m vaesr` is the `vaesr` command."""

import sys

from vaesr import interrupts


def main() -> int:
    """Runs the command as a process of its own: stopped by Ctrl-C at once, from its first moment on."""
    interrupts.end_at_once()
    from vaesr.app import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
