"""Follows a training run and measures its steps: what the trackers of all frameworks have in common."""

from lca.tracking.callbacks import CallbackBase
from lca.tracking.functional import FunctionalTracker
from lca.tracking.model import ModelTracker
from lca.tracking.options import MakeViews, OnError, Options, RecordTo, Schedule, ViewsByName
from lca.tracking.session import Session
from lca.tracking.tracker import TrackerBase

__all__ = [
    "CallbackBase",
    "FunctionalTracker",
    "MakeViews",
    "ModelTracker",
    "OnError",
    "Options",
    "RecordTo",
    "Schedule",
    "Session",
    "TrackerBase",
    "ViewsByName",
]
