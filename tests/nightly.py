"""What is tried at night only (`make nightly`).

By day, a case is left out only where another test shows the same of the same framework.
"""

import os
from collections.abc import Iterable
from typing import Any

NIGHTLY = os.environ.get("LCA_HYPOTHESIS_PROFILE") == "nightly"
"""Whether this is the nightly run; child processes see it as well."""


def cases(*by_day: Any, at_night: Iterable[Any] = ()) -> list[Any]:
    """The cases of a test: those of every run, and at night others of the same kind."""
    return [*by_day, *(at_night if NIGHTLY else ())]
