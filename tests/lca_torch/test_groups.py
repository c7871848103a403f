"""`groups=` and `heads=` of the tracker in torch: module types, groups of the optimizer, heads."""

import pytest
import torch
from torch import nn

from lca import tolerances
from lca.errors import LCAError
from lca_torch import Objective, Tracker


class _Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.mlp = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.mlp(self.norm(x + self.attn(x, x, x, need_weights=False)[0]).mean(1))


def _tracked(**options):
    torch.manual_seed(0)
    model, x, y = _Attention().double(), torch.randn(6, 4, 8).double(), torch.arange(6) % 3
    rest = [*model.norm.parameters(), *model.mlp.parameters()]
    optimizer = torch.optim.SGD([{"params": model.attn.parameters()}, {"params": rest, "lr": 0.2}], lr=0.1)
    loss_fn = nn.functional.cross_entropy
    with Tracker(model, optimizer, Objective(model, loss_fn, (x, y)), on_error="raise", **options) as tracker:
        for _ in range(3):
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
    return tracker.summary()["train"]


def test_types_and_groups_of_the_optimizer_are_resolved_by_the_model():
    summary = _tracked(groups={"norm": nn.LayerNorm, "attention": r"^attn\.", "lr": "param_groups"})
    tensors, groups = summary["per_tensor"], summary["per_group"]
    limit = tolerances.summed(summary["mass"], tolerances.EPS64)
    assert set(groups["group"]) == {"attention", "norm", "other"}
    assert abs(groups["group"]["norm"] - tensors["norm.weight"] - tensors["norm.bias"]) <= limit
    assert set(groups["lr"]) == {"param_groups[0]", "param_groups[1]"}
    assert abs(groups["lr"]["param_groups[0]"] - groups["group"]["attention"]) <= limit


def test_the_sums_over_heads_add_up():
    summary = _tracked(heads=2)
    heads, limit = summary["per_head"], tolerances.summed(summary["mass"], tolerances.EPS64)
    assert set(heads) == {"attn[head 0]", "attn[head 1]", "other"}
    assert abs(sum(heads.values()) - summary["lca_total"]) <= limit
    attention = sum(t for n, t in summary["per_tensor"].items() if n.startswith("attn"))
    bias = summary["per_tensor"]["attn.out_proj.bias"]
    assert abs(heads["attn[head 0]"] + heads["attn[head 1]"] - (attention - bias)) <= limit


def test_a_named_group_divides_by_what_it_matches():
    summary = _tracked(groups={"place": r"^(?P<place>attn|mlp)\."})
    places, tensors = summary["per_group"]["place"], summary["per_tensor"]
    limit = tolerances.summed(summary["mass"], tolerances.EPS64)
    assert list(places) == ["place attn", "place mlp", "other"]
    assert abs(places["place mlp"] - tensors["mlp.weight"] - tensors["mlp.bias"]) <= limit


def test_a_type_that_the_model_lacks_is_refused():
    with pytest.raises(LCAError, match="'conv' selects no tensor: no Conv2d of the model"):
        _tracked(groups={"conv": nn.Conv2d})
