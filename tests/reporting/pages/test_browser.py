"""The page in a real browser: it opens without a fault or a request, and its filters, order and viewer work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chromium import FOUND, Browser, browser
from scenes import full_run

pytestmark = pytest.mark.skipif(FOUND is None, reason="Chromium is not installed (Debian's package: chromium)")
VISIBLE = "[...document.querySelectorAll('.card:not([hidden]) figcaption b')].map(each => each.textContent)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = full_run(tmp_path_factory.mktemp("page") / "run")
    with browser() as opened:
        opened.show(1400)
        opened.open(path)
        yield opened
        assert opened.faults == []
        assert opened.requests == [path.resolve().as_uri()] * len(opened.requests)


def choose(page: Browser, name: str, value: str) -> list[str]:
    page.ask(
        f"(() => {{ const form = document.forms[0]; form.elements['{name}'].value = '{value}';"
        "form.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    return page.ask(VISIBLE)


def test_both_sides_show_the_one_picture(page: Browser) -> None:
    pairs = "[...document.querySelectorAll('.card')].map(c => [...c.querySelectorAll('img')].map(i => i.src))"
    for annotated, predicted in page.ask(pairs):
        assert annotated == predicted
        assert annotated.startswith("data:image/jpeg")
    page.ask("document.querySelector('.card').scrollIntoView()")
    drawn = "document.querySelectorAll('.card img')[1]"
    assert page.ask(f"{drawn}.decode().then(() => {drawn}.naturalWidth)") == 160


def test_pictures_are_filtered_by_error_and_by_class(page: Browser) -> None:
    assert choose(page, "kind", "all") == ["2.png", "1.png", "4.png"]
    assert choose(page, "kind", "missed") == ["2.png"]
    assert page.ask("document.querySelectorAll('.card:not([hidden]) path:not(.off)').length") == 1
    assert page.ask("document.forms[0].querySelector('output').value") == "1 of 3 pictures"
    assert choose(page, "kind", "right") == ["1.png"]
    assert choose(page, "class", "1") == []  # no door is right
    assert choose(page, "kind", "all") == ["2.png"]
    assert choose(page, "class", "all") == ["2.png", "1.png", "4.png"]
    assert choose(page, "order", "best") == ["4.png", "1.png", "2.png"]
    assert choose(page, "order", "worst") == ["2.png", "1.png", "4.png"]


def test_the_viewer_opens_steps_and_closes_by_keyboard(page: Browser) -> None:
    words = "document.querySelector('dialog p').textContent"
    page.ask("document.querySelector('.card button').focus()")
    page.press("Enter", 13)
    assert page.ask("document.querySelector('dialog').open")
    assert page.ask(words).startswith("2.png")
    assert page.ask("[...document.querySelectorAll('dialog text')].map(t => t.textContent)").count("door 0.94") == 1
    tapped = "document.querySelector('dialog path.o[data-k=missed]')"
    page.ask(f"{tapped}.dispatchEvent(new MouseEvent('click', {{bubbles: true}}))")
    assert page.ask(words) == "win<dow>: missed"
    page.press("ArrowRight", 39)
    assert page.ask(words).startswith("1.png")
    page.press("Escape", 27)
    assert not page.ask("document.querySelector('dialog').open")


@pytest.mark.parametrize("width", [390, 768, 1400])
def test_nothing_is_wider_than_the_screen(page: Browser, width: int) -> None:
    page.show(width)
    assert page.ask("document.documentElement.scrollWidth") <= width
    page.show(1400)


def test_charts_take_the_colours_of_the_page(page: Browser) -> None:
    colour = "getComputedStyle(document.querySelector('svg.chart text')).fill"
    light = page.ask(colour)
    page.show(1400, dark=True)
    assert page.ask(colour) != light
    page.show(1400)


def test_text_can_be_read_in_light_and_dark(page: Browser) -> None:
    """WCAG's contrast of text on its card, at least 7."""
    luminance = """(text) => { const [r, g, b] = text.match(/[\\d.]+/g).map(v => v / 255)
        .map(v => v <= 0.04 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; }"""
    for dark in (False, True):
        page.show(1400, dark=dark)
        fore, ground = (
            page.ask(f"({luminance})(getComputedStyle(document.querySelector('{where}')).{what})")
            for where, what in (("section td", "color"), ("section", "backgroundColor"))
        )
        assert (ground < 0.1) == dark
        assert (max(fore, ground) + 0.05) / (min(fore, ground) + 0.05) > 7
