"""Searches of tiny trainings."""

from __future__ import annotations

import functools

from tiny import TINY

from maskrcnn_train.settings.command_rules import check_tune_rules
from maskrcnn_train.settings.command_schema import TuneConfig
from maskrcnn_train.tuning.search import Search, load_search

SPACE = (
    "optimizer.lr=tag(log,interval(1e-5,1e-2))",
    "roi_head.num_convs=int(interval(0,4))",
    "roi_head.num_fcs=1,2",
)


@functools.cache
def search(*overrides: str, space: tuple[str, ...] = SPACE) -> Search:
    return load_search("tune", TuneConfig, check_tune_rules, [*TINY, *space, *overrides], None)[0]
