"""What a search may vary, as the command line writes it."""

from __future__ import annotations

from typing import Any

import pytest

from maskrcnn_train.settings.overrides import plain_value
from maskrcnn_train.tuning.space import Choice, Numbers, divided, override_of, read_dimension

READ = {
    "backbone=resnet18,resnet50": Choice("backbone", ["resnet18", "resnet50"]),
    "rpn.iou.upper=choice(0.6,0.7)": Choice("rpn.iou.upper", ["0.6", "0.7"]),
    "rpn.anchors.aspect_ratios=[0.5,1,2],[1]": Choice("rpn.anchors.aspect_ratios", ["[0.5,1,2]", "[1]"]),
    "trainer.ema=null,0.99": Choice("trainer.ema", ["null", "0.99"]),
    "a=range(500,2001,500)": Numbers("a", 500, 2000, step=500, whole=True),
    "a=range(1,5)": Numbers("a", 1, 4, step=1, whole=True),
    "a=range(0.1,0.45,0.1)": Numbers("a", 0.1, 0.4, step=0.1),
    "a=interval(1,8)": Numbers("a", 1.0, 8.0),
    "a=int(interval(0,4))": Numbers("a", 0, 4, whole=True),
    "a=tag(int,log,interval(1,100))": Numbers("a", 1, 100, log=True, whole=True),
    "a=tag(log,interval(1e-4,1e-1))": Numbers("a", 1e-4, 1e-1, log=True),
}


@pytest.mark.parametrize("text", READ)
def test_a_dimension_is_read(text: str) -> None:
    expected, found = READ[text], read_dimension(text)
    assert type(found) is type(expected)
    assert vars(found) == pytest.approx(vars(expected)) if isinstance(found, Numbers) else found == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a=interval(2,1)", "is empty"),
        ("a=tag(log,interval(0,1))", "begin above 0"),
        ("a=tag(quick,interval(0,1))", "has the tag quick"),
        ("a=tag(int,interval(0.5,4))", "whole numbers"),
        ("a=range(5,1)", "fewer than two"),
        ("a=range(1,2)", "fewer than two"),
        ("a=choice(1)", "one value only"),
        ("a=glob(*)", "cannot be searched"),
        ("+a=1,2", "adds or removes"),
        ("a=(", "is not an override"),
    ],
)
def test_a_faulty_dimension_is_one_clear_line(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        read_dimension(text)
    assert "\n" not in str(caught.value)


def test_the_ends_of_whole_numbers_are_whole() -> None:
    """2e+06 would be no value of a whole setting."""
    found = read_dimension("trainer.max_steps=range(500000,2000001,500000)")
    assert [override_of("trainer.max_steps", each) for each in found.ends] == [
        "trainer.max_steps=500000",
        "trainer.max_steps=2000000",
    ]


def test_overrides_with_several_values_are_told_from_the_others() -> None:
    given = ["backbone=resnet18", "seed=1,2", "rpn.anchors.sizes=[1,2,3,4,5]", "optimizer.lr=interval(0.1,1)", "a=("]
    assert divided(given) == ([given[0], given[2], given[4]], [given[1], given[3]])


def test_the_first_value_is_the_settings_own_or_the_middle() -> None:
    assert Numbers("a", 1e-4, 1e-1, log=True).first(0.02) == 0.02
    assert Numbers("a", 1e-4, 1e-2, log=True).first(0.02) == pytest.approx(1e-3)
    assert Numbers("a", 0, 4, whole=True).first(9) == 2
    assert Numbers("a", 500, 2000, step=500, whole=True).first(1000) == 1000
    assert Numbers("a", 500, 2000, step=500, whole=True).first(700) in (1000, 1500)
    assert Numbers("a", 0.0, 1.0).first(True) == 0.5  # a switch is no number


def test_values_become_overrides_and_plain_values() -> None:
    assert override_of("a", 0.00012345678) == "a=0.000123457"
    assert override_of("a", 0.1 + 0.2) == "a=0.3"
    assert override_of("a", 3) == "a=3"
    values: dict[str, Any] = {
        "a=[0.5,1]": [0.5, 1],
        "a=null": None,
        "a='x y'": "x y",
        "a=true": True,
        "a={b:'c'}": {"b": "c"},
    }
    assert {text: plain_value(text) for text in values} == values


def test_the_values_of_a_range_are_those_that_optuna_takes() -> None:
    """0.1 + 2 * 0.1 is 0.30000000000000004, which its distribution does not contain."""
    found = read_dimension("roi_head.nms_threshold=range(0.1,0.4,0.1)")
    assert isinstance(found, Numbers)
    assert found.values == [0.1, 0.2, 0.3]
    assert found.ends == [0.1, 0.3]
