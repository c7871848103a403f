"""Follows a training run and measures its steps: what the trackers of all frameworks have in common."""

from lca.tracking._callbacks import CallbackBase
from lca.tracking._context import LoopContext
from lca.tracking._follower import LiveTheta
from lca.tracking._forecast import Forecast, ForecastRow
from lca.tracking._functional import FunctionalTracker
from lca.tracking._measure import measure
from lca.tracking._model import ModelTracker
from lca.tracking._options import (
    CheckEvery,
    MakeViews,
    OnError,
    Options,
    RecordTo,
    Schedule,
    ViewsByName,
)
from lca.tracking._session import Session
from lca.tracking._tracker import TrackerBase

__all__ = [
    "CallbackBase",
    "CheckEvery",
    "Forecast",
    "ForecastRow",
    "FunctionalTracker",
    "LiveTheta",
    "LoopContext",
    "MakeViews",
    "ModelTracker",
    "OnError",
    "Options",
    "RecordTo",
    "Schedule",
    "Session",
    "TrackerBase",
    "ViewsByName",
    "measure",
]
