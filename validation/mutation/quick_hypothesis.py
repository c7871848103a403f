"""A pytest plugin for mutated code: hypothesis draws the same cases every time, and shrinks no failure."""

from hypothesis import Phase, settings

settings.register_profile(
    "mutation",
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
)
