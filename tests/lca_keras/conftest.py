"""Keras chooses its engine when it is imported: the tests in ``engine`` run in processes of their own."""

import os

collect_ignore = [] if os.environ.get("KERAS_BACKEND") in ("torch", "jax") else ["engine"]
