"""`lca.divisions` and the heads of attention: what they select, and what they refuse."""

import re

import numpy as np
import pytest

from lca import Layout
from lca._heads import Heads, head_groups
from lca.divisions import divisions
from lca.errors import LCAError

NAMES = ("h.attn.q_proj.weight", "h.mlp.weight", "h.mlp.bias", "norm.weight")


@pytest.mark.parametrize(
    "selector",
    [r"\.mlp\.", re.compile(r"mlp"), ["h.mlp.weight", "h.mlp.bias"], lambda name: "mlp" in name],
    ids=["text", "pattern", "names", "function"],
)
def test_selectors_agree_and_the_rest_is_other(selector):
    assert divisions({"mlp": selector}, NAMES) == {
        "group": dict(zip(NAMES, ["other", "mlp", "mlp", "other"], strict=True))
    }


def test_a_mapping_is_a_division_of_its_own():
    found = divisions({"mlp": "mlp", "kind": {"weights": "weight$", "biases": "bias$"}}, NAMES)
    assert list(found) == ["group", "kind"]
    assert found["kind"]["h.mlp.bias"] == "biases"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": "mlp", "b": "bias$"}, "'h.mlp.bias' is in the groups 'a' and 'b'"),
        ({"a": "conv"}, "'a' .* selects no tensor; the tensors are h.attn.q_proj.weight"),
        ({"a": ["h.mlp"]}, "lists 'h.mlp', which is not a tensor"),
        ({"a": "("}, "is not a regular expression"),
        ({"a": 3}, "selected by a int; use a regular expression"),
        ({"a": int}, "only a tracker of the framework knows"),
        ({"a": "param_groups"}, "only a tracker of the framework knows"),
        ({"other": "mlp"}, "choose another name"),
        ({"layer": {"a": "mlp"}}, "a division cannot be called 'layer'"),
        ({}, "groups must be a mapping"),
        ({"layer": r"h\.(?P<layer>\d)"}, "a division cannot be called 'layer'"),
        ({"block": r"(?P<a>mlp)|(?P<b>norm)"}, "has 2 named groups and must have one"),
        ({"block": r"conv(?P<block>\d)"}, "matches no tensor; the tensors are h.attn"),
        ({"block": r"(?P<block>"}, "is not a regular expression"),
    ],
)
def test_what_cannot_be_a_division_is_refused(groups, message):
    with pytest.raises(LCAError, match=message):
        divisions(groups, NAMES)


def _head_of(layout, heads):
    """The head of every entry by tensor, from the index of the groups."""
    groups = head_groups(layout, heads)
    return {n: np.array(groups.names)[v.astype(int)] for n, v in layout.unflatten(groups.index * 1.0).items()}


def test_rows_of_queries_and_columns_of_the_output_belong_to_a_head():
    names = [f"a.{p}_proj.{k}" for p in "qkvo" for k in ("weight", "bias")] + ["fc.weight"]
    layout = Layout(tuple(names), tuple([(4, 6), (4,)] * 3 + [(6, 4), (6,)] + [(2, 2)]))
    found = _head_of(layout, 2)
    rows = np.repeat(["a[head 0]", "a[head 1]"], 2)
    for p in "qkv":
        assert (found[f"a.{p}_proj.weight"] == rows[:, None]).all()
        assert (found[f"a.{p}_proj.bias"] == rows).all()
    assert (found["a.o_proj.weight"] == rows[None, :]).all()
    assert set(found["a.o_proj.bias"]) == set(found["fc.weight"].ravel()) == {"other"}


def test_fused_projections_hold_queries_keys_and_values_one_after_the_other():
    heads = np.tile(np.repeat(["attn[head 0]", "attn[head 1]"], 2), 3)
    torch_like = Layout(("attn.in_proj_weight", "attn.out_proj.weight"), ((12, 4), (4, 4)))
    assert (_head_of(torch_like, 2)["attn.in_proj_weight"] == heads[:, None]).all()
    gpt2 = Layout(("attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight"), ((4, 12), (12,), (4, 4)))
    found = _head_of(gpt2, 2)
    assert (found["attn.c_attn.weight"] == heads[None, :]).all()
    assert (found["attn.c_attn.bias"] == heads).all()
    assert (found["attn.c_proj.weight"] == heads[:4, None]).all()  # its inputs are rows there


def test_keras_has_an_axis_of_heads():
    layout = Layout(
        ("mha.query.kernel", "mha.query.bias", "mha.attention_output.kernel", "mha.attention_output.bias"),
        ((5, 2, 3), (2, 3), (2, 3, 5), (5,)),
        (2, 1, 2, 0),
    )
    found, heads = _head_of(layout, 2), np.array(["mha[head 0]", "mha[head 1]"])
    assert (found["mha.query.kernel"] == heads[None, :, None]).all()
    assert (found["mha.query.bias"] == heads[:, None]).all()
    assert (found["mha.attention_output.kernel"] == heads[:, None, None]).all()
    with pytest.raises(LCAError, match="has 2 heads, not heads=3"):
        head_groups(layout, 3)


def test_projections_of_any_names_are_divided_like_the_known_ones():
    shapes, plain = ((4, 6),) * 3 + ((6, 4), (2, 2)), [f"a.{p}_proj.weight" for p in "qkvo"]
    expected = _head_of(Layout((*plain, "fc.weight"), shapes), 2)
    names = ["a.read_q.weight", "a.read_k.weight", "a.read_v.weight", "a.write.weight", "fc.weight"]
    found = _head_of(Layout(tuple(names), shapes), Heads(2, single=r"read_[qkv]", output="write"))
    for name, known in zip(names, (*plain, "fc.weight"), strict=True):
        assert (found[name] == expected[known]).all()
    fused = ("a.all.weight", "a.all.bias")
    found = _head_of(Layout(fused, ((12, 4), (12,))), Heads(2, fused="all"))
    known = _head_of(Layout(("a.qkv.weight", "a.qkv.bias"), ((12, 4), (12,))), 2)
    assert (found[fused[0]] == known["a.qkv.weight"]).all()
    assert (found[fused[1]] == known["a.qkv.bias"]).all()


@pytest.mark.parametrize(
    ("names", "message"), [({}, "pass single= or fused="), ({"single": "("}, "single='\\(' is not a regular")]
)
def test_heads_without_valid_names_are_refused(names, message):
    with pytest.raises(LCAError, match=message):
        Heads(2, **names)


def test_bert_keeps_its_projections_under_self_and_output():
    names = ("l.attention.self.query.weight", "l.attention.output.dense.weight", "l.output.dense.weight")
    found = _head_of(Layout(names, ((4, 4),) * 3), 2)
    assert set(found[names[0]].ravel()) == set(found[names[1]].ravel())
    assert set(found[names[2]].ravel()) == {"other"}  # that of the MLP


@pytest.mark.parametrize(
    ("names", "shapes", "heads", "message"),
    [
        (
            ("fc.weight",),
            ((4, 4),),
            2,
            r"are fc.weight. Pass .*Heads\(2, single=.*'output': 'head'",
        ),
        (("a.x.weight",), ((4, 4),), Heads(2, single="wq"), "selects no query, key or value projection"),
        (("a.x.weight",), ((4, 4),), Heads(2, single="x", output="x"), "selected by single= and by output="),
        (("a.x.w", "b.o.w"), ((4, 4),) * 2, Heads(2, single="x", output="o"), "belongs to 'b', which has no"),
        (("a.q_proj.weight",), ((5, 4),), 2, r"not a multiple of 2; heads=2 must be"),
        (("a.q_proj.weight", "a.k_proj.weight"), ((8, 4), (4, 4)), 2, "grouped queries"),
        (("a.q_proj.weight",), ((4, 4),), 0, "heads must be a positive integer"),
    ],
)
def test_heads_that_cannot_be_told_are_refused(names, shapes, heads, message):
    with pytest.raises(LCAError, match=message):
        head_groups(Layout(names, shapes), heads)


def test_a_named_group_makes_a_division_of_what_it_matches():
    names = ("wte", "h.0.mlp", "h.0.norm", "h.11.mlp")
    found = divisions({"mlp": "mlp", "block": re.compile(r"^h\.(?P<block>\d+)\.")}, names)
    assert list(found) == ["group", "block"]
    assert list(found["block"].values()) == ["other", "block 0", "block 0", "block 11"]


def _by_name(layout, groups):
    """The names of the groups of every entry, by tensor."""
    return {n: np.array(groups.names)[v.astype(int)] for n, v in layout.unflatten(groups.index * 1.0).items()}


def test_experts_are_numbered_modules_or_the_first_axis():
    names = ("0.experts.1.up.weight", "0.experts.0.up.weight", "1.experts.up_proj", "1.router.weight")
    layout = Layout(names, ((2,), (2,), (2, 3, 4), (2, 4)))
    found = _by_name(layout, layout.groups("expert", experts=2))
    assert set(found["0.experts.1.up.weight"].ravel()) == {"0.experts[1]"}
    assert set(found["0.experts.0.up.weight"].ravel()) == {"0.experts[0]"}
    assert set(found["1.router.weight"].ravel()) == {"other"}
    assert [set(part.ravel()) for part in found["1.experts.up_proj"]] == [{"1.experts[0]"}, {"1.experts[1]"}]


def test_a_layout_groups_by_head_and_by_pattern_as_a_tracker_does():
    names = ("h.0.attn.c_attn.weight", "h.0.attn.c_proj.weight", "h.1.mlp.weight")
    layout = Layout(names, ((12, 4), (4, 4), (2, 2)))
    heads, direct = layout.groups("head", heads=2), head_groups(layout, 2)
    assert (heads.names, heads.index.tolist()) == (direct.names, direct.index.tolist())
    blocks = layout.groups(r"h\.(?P<block>\d+)")
    assert blocks.total(np.ones(layout.size)).tolist() == [64, 4]


@pytest.mark.parametrize(
    ("by", "options", "message"),
    [
        ("head", {}, r'heads= is required by groups\("head"\) and .*: layout.groups\("head", heads=8\)'),
        ("layer", {"heads": 2}, "got 'layer' and heads=2"),
        ("expert", {"experts": 2}, "experts=2 needs tensors such as experts.0.up_proj.weight"),
        ("expert", {"experts": 0}, "experts must be a positive integer"),
        ("layers", {}, "grouping"),
    ],
)
def test_what_a_layout_cannot_group_by_is_refused(by, options, message):
    with pytest.raises(LCAError, match=message):
        Layout(NAMES, ((2,),) * 4).groups(by, **options)


def test_more_experts_than_stated_are_refused():
    layout = Layout(("experts.2.weight",), ((2,),))
    with pytest.raises(LCAError, match="belongs to expert 2, counted from 0"):
        layout.groups("expert", experts=2)


def test_what_is_in_no_group_comes_last():
    layout = Layout(("wte.weight", "h.0.c_attn.weight", "h.1.c_attn.weight"), ((5, 4), (12, 4), (12, 4)))
    for groups in (layout.groups(r"h\.(?P<block>\d+)"), layout.groups("head", heads=2)):
        assert groups.names[-1] == "other"
        assert groups.index[0] == len(groups) - 1
        assert groups.total(np.arange(layout.size) < 20)[-1] == 20
    named = Layout(("other", "w"), ((2,), (1,))).groups("tensor")
    assert named.names == ("other", "w")  # the name of a tensor says nothing
