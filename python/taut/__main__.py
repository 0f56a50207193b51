"""``python -m taut``: the same as the ``taut`` command."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
