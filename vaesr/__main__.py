"""`python -m vaesr` is the `vaesr` command."""

import sys

from vaesr.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
