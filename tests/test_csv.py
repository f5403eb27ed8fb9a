"""Tables are written whole, and no spreadsheet runs a cell of them as a formula."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from maskrcnn_train.files import csv_cell, write_csv, write_rows


@pytest.mark.parametrize("text", ["=cmd|'/c calc'!A1", "+SUM(A1)", "-2+3", "@x", "\t=1"])
def test_a_text_that_a_spreadsheet_would_run_stays_a_text(text: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", [{"class": text, "AP": -1.0}])
    assert list(csv.reader(path.read_text().splitlines()))[1] == [f"'{text}", "-1.0"]


@pytest.mark.parametrize("cell", ["-0.5", "-1", "+1e-3", "door", "", -2, None])
def test_numbers_and_plain_texts_are_left_alone(cell: object) -> None:
    assert csv_cell(cell) is cell


def test_a_table_without_rows_is_an_empty_file(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "a.csv", []).read_text() == ""


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "new" / "a.csv", [["old"]])
    lines = (cells for cells in (["new"], None))  # the second is no line
    with pytest.raises(TypeError):
        write_csv(path, lines)
    assert path.read_text().strip() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["a.csv"]
