"""`PendingStep`: which fields the loop is asked for."""

from lca.tracking._pending import PendingStep


def test_a_loop_is_asked_for_nothing_that_is_not_required():
    asked = []

    def step_fields(fields):
        asked.append(fields)
        return dict.fromkeys(fields)

    for fields in ((), ("batch", "next_gradient")):
        PendingStep(fields, step_fields).collect(measured=True)
    assert asked == [{"batch"}]


def test_a_loop_that_supplies_nothing_is_not_asked():
    PendingStep(("batch",), None).collect(measured=True)
