"""`python -m lca`: the same as the command `lca`."""

import sys

from lca._cli import main

if __name__ == "__main__":
    sys.exit(main())
