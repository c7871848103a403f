"""`End`: where a record that is continued ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan

from lca.record._blocks import Blocks
from lca.record._place import Place
from lca.record._schema import Plan


@dataclass
class End:
    """The end of a record that is continued.

    Attributes
    ----------
    step
        The index that follows its last step.
    losses
        The loss there, by name; NaN if it was not measured.
    place
        ``Σ_i |θ_i|`` there; ``None`` if they are not known.
    arrived
        Whether the place was compared with that where the run goes on.
    displaced
        Whether they differ.
    """

    step: int
    losses: Mapping[str, float]
    place: Place | None
    arrived: bool = False
    displaced: bool = False

    @classmethod
    def of(cls, blocks: Blocks, plan: Plan) -> "End":
        """The end of these rows; there must be one."""
        content = plan.content
        step = int(blocks.last("step_end")) if content.checkpoints else int(blocks.last("step")) + 1
        losses = dict(zip(plan.measured, blocks.last("loss_end").tolist(), strict=True))
        mass = float(blocks.last("theta_mass")) if content.places else nan
        return cls(step, losses, None if isnan(mass) else Place(mass))
