from __future__ import annotations

from typing import Any

import pytest

from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.classes import ClassMap


@pytest.mark.parametrize(
    "plain",
    [
        {"names": ["door", "window"], "ids": [3]},
        {"names": ["door"], "ids": ["three"]},
        {"names": ["door"], "ids": [True]},
        {"names": {"door": 3}, "ids": [3]},
        {"ids": [3]},
        ["door"],
    ],
)
def test_plain_data_that_is_no_map_of_classes_is_refused(plain: Any) -> None:
    with pytest.raises(UserError, match="`names` and `ids`"):
        ClassMap.from_plain(plain)


def test_plain_data_gives_the_map_back() -> None:
    classes = ClassMap(["door", "window"], [3, 7], objects=[20, 300])
    again = ClassMap.from_plain(classes.to_plain())
    assert (again, again.objects) == (classes, [20, 300])
    assert ClassMap.from_plain({"names": ["door"], "ids": [3]}).objects is None
    for objects in ([20], ["20", "300"], 20):
        with pytest.raises(UserError, match="one whole number for each class"):
            ClassMap.from_plain(classes.to_plain() | {"objects": objects})


@pytest.mark.parametrize("label", [0, 3, -1])
def test_a_label_out_of_range_is_refused(label: int) -> None:
    with pytest.raises(UserError, match=r"labels are 1\.\.2"):
        ClassMap(["door", "window"], [3, 7]).name_of(label)
