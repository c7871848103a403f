"""The views of the measured losses of a run: those of the user, and those that its summary is made of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lca.by_example import ExampleHistory
from lca.errors import LCAError
from lca.layout import Layout
from lca.objective import Objective, Sum
from lca.row import Row
from lca.summary import RunViews
from lca.tracking._options import MakeView, MakeViews, ViewsByName
from lca.views import View
from lca.views._view import reader_of


def views_of(objectives: Mapping[str, Objective], make: MakeViews) -> dict[str, Any]:
    """The view of each measured loss, and of each of its terms where it is a `lca.summary.RunViews`."""
    views: dict[str, Any] = {}
    for name, measured in objectives.items():
        if isinstance(make, Sequence):
            views[name] = [_view_of(one, name, measured.layout) for one in make]
        else:
            views[name] = _view_of(make, name, measured.layout)
        if isinstance(measured, Sum) and isinstance(views[name], RunViews):
            views |= {f"{name}/{term}": RunViews.of(measured.layout) for term in measured.terms}
    return views


def refuse_two_histories(views: Mapping[str, Any]) -> None:
    """A record holds one allocation by example."""
    found = [view for own in views.values() for view in _each(own) if isinstance(view, ExampleHistory)]
    if len(found) > 1:
        raise LCAError(
            f"a record holds one allocation by example, and views has {len(found)}; pass one "
            "lca.by_example.ExampleHistory with record=, and keep the others with ExampleHistory.to_xarray."
        )


def _view_of(make: MakeView, name: str, layout: Layout) -> View:
    return make.view_of(name, layout) if isinstance(make, ViewsByName) else make(layout)


def _each(views: Any) -> Sequence[View]:
    """The views of a loss as a sequence."""
    return views if isinstance(views, Sequence) else [views]


def summarized_views(objectives: Mapping[str, Objective], views: Mapping[str, Any]) -> dict[str, RunViews]:
    """The views of each loss and term that the summary is made of: those of the user where they fit."""
    found: dict[str, RunViews] = {}
    for name, measured in objectives.items():
        terms = measured.terms if isinstance(measured, Sum) else ()
        for full in (name, *(f"{name}/{term}" for term in terms)):
            own = [view for view in _each(views.get(full, ())) if isinstance(view, RunViews)]
            found[full] = own[0] if own else RunViews.of(measured.layout)
    return found


def readers_of(
    views: Mapping[str, Any], summarized: Mapping[str, RunViews]
) -> dict[str, list[Callable[[Row], None]]]:
    """What reads the rows of each loss and term: its views, and that of the summary."""
    readers = {}
    for name in {**views, **summarized}:
        own, run = list(_each(views.get(name, ()))), summarized.get(name)
        if run is not None and not any(view is run for view in own):
            own.append(run)
        readers[name] = list(map(_reader, own))
    return readers


def _reader(view: View) -> Callable[[Row], None]:
    read = reader_of(view)
    if not isinstance(view, ExampleHistory):
        return read

    def read_examples(row: Row) -> None:
        read(row)
        row.examples = view.last

    return read_examples
