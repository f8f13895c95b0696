"""`python -m emrrg_lib` is the same program as `emrrg`."""

import sys

from emrrg_lib.cli import main

if __name__ == "__main__":
    sys.exit(main())
