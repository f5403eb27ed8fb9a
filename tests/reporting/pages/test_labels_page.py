"""labels.html: what it shows of each doubt, and in a real browser its filters and its keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import FOUND, Browser, browser
from scenes import scene

from maskrcnn_train.data.coco.reader import open_index
from maskrcnn_train.labelling.files import doubt_entries
from maskrcnn_train.labelling.suspicion import find_doubts
from maskrcnn_train.reporting.pages.labels_page import write_labels_page

in_browser = pytest.mark.skipif(FOUND is None, reason="Chromium is not installed (Debian's package: chromium)")


def page_of(folder: Path, *, pictures: int = 100) -> Path:
    """The doubts of a small scene; the first image cannot be read."""
    shown = scene(folder / "images")
    (folder / "all.json").write_text(json.dumps(shown.ground_truth))
    doubts = find_doubts(shown.ground_truth, shown.results, with_masks=True, max_detections=100)
    entries = doubt_entries(doubts, open_index(folder / "all.json"), shown.ground_truth, shown.results)
    return write_labels_page(folder, entries[:pictures], doubts, shown)


def test_the_most_suspicious_are_shown_with_label_and_detection(tmp_path: Path) -> None:
    text = page_of(tmp_path, pictures=4).read_text()
    assert text.count("<figure") == 4
    assert re.search(r"The 4 most suspicious of \d+ doubts", text)
    assert "win&lt;dow&gt;" in text
    assert "win<dow>" not in text
    assert re.search(r'<path class="label" d="M[\d. L]+z"', text)
    assert re.search(r'<path class="found mask" d="M', text)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    page_of(tmp_path)
    shown = scene(tmp_path / "images")
    (tmp_path / "images/2.png").write_bytes(b"")
    doubts = find_doubts(shown.ground_truth, shown.results, with_masks=True, max_detections=100)
    entries = doubt_entries(doubts, open_index(tmp_path / "all.json"), shown.ground_truth, shown.results)
    text = write_labels_page(tmp_path, entries, doubts, shown).read_text()
    assert text.count("<figure") == sum(each.image_id != 2 for each in doubts)
    assert "Not shown: " in text


def test_there_may_be_no_doubt(tmp_path: Path) -> None:
    assert "No label is in doubt" in write_labels_page(tmp_path, [], [], scene(tmp_path / "images")).read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = page_of(tmp_path_factory.mktemp("page"))
    with browser() as opened:
        opened.show(1280)
        opened.open(path)
        yield opened
        assert opened.faults == []
        assert opened.requests == [path.resolve().as_uri()]


VISIBLE = "[...document.querySelectorAll('.card:not([hidden])')].map(each => each.dataset.kind)"


@in_browser
def test_doubts_are_filtered_by_kind_and_by_class(page: Browser) -> None:
    everything = page.ask(VISIBLE)
    page.ask("document.querySelector('input[value=\"wrong class\"]').click()")
    assert page.ask(VISIBLE) == ["wrong class"] * everything.count("wrong class")
    assert page.ask("document.querySelector('output').value") == f"1 of {len(everything)} doubts"
    page.ask("document.querySelector('input[value=all]').click()")
    page.ask("(() => { const s = document.querySelector('select'); s.value = 'door'; s.form.oninput(); })()")
    assert 0 < len(page.ask(VISIBLE)) < len(everything)
    page.ask("(() => { const s = document.querySelector('select'); s.value = ''; s.form.oninput(); })()")
    assert page.ask(VISIBLE) == everything


@in_browser
def test_keys_go_from_doubt_to_doubt_and_hide_the_outlines(page: Browser) -> None:
    place = "[...document.querySelectorAll('.card')].indexOf(document.activeElement)"
    page.ask("document.activeElement.blur()")
    seen = []
    for key, code in (("j", 74), ("j", 74), ("ArrowRight", 39), ("k", 75), ("ArrowLeft", 37), ("k", 75)):
        page.press(key, code)
        seen.append(page.ask(place))
    assert seen == [0, 1, 2, 1, 0, 0]
    hidden = "getComputedStyle(document.querySelector('.side svg')).visibility"
    page.press("h", 72)
    assert page.ask(hidden) == "hidden"
    page.press("h", 72)
    assert page.ask(hidden) == "visible"


@in_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(page: Browser, width: int) -> None:
    page.show(width)
    assert page.ask("document.documentElement.scrollWidth") <= width
