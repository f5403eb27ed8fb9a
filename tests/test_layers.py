"""What the layers allow is in `.importlinter`; here what they cannot say."""

from __future__ import annotations

from pathlib import Path


def test_conf_holds_no_python() -> None:
    assert not list((Path(__file__).parents[1] / "conf").rglob("*.py"))
