"""Whether this is the run of the night (`make nightly`), which also has the cases that daily runs leave out.

By day, a case is left out only where another test shows the same of the same framework.
"""

import os

NIGHTLY = os.environ.get("LCA_HYPOTHESIS_PROFILE") == "nightly"
