"""What the tracker of any framework does: follow a training run and measure its steps."""

from lca.tracking.session import MakeViews, OnError, RecordTo, Schedule, Session, ViewsByName, check_options

__all__ = ["MakeViews", "OnError", "RecordTo", "Schedule", "Session", "ViewsByName", "check_options"]
