"""One colour a class: far apart to the eye, and the same in every picture, page and run."""

from __future__ import annotations

import math

Color = tuple[int, int, int]
GOLDEN_ANGLE = 137.50776  # degrees: any number of hues, none close to its neighbours
LIGHTNESS = (0.72, 0.62, 0.82)


def class_color(label: int) -> Color:
    """The sRGB colour of class `label` (1..K), equally vivid for all, in turns of three lightnesses."""
    hue = math.radians((25 + GOLDEN_ANGLE * (label - 1)) % 360)
    return oklch_to_srgb(LIGHTNESS[(label - 1) % 3], 0.17, hue)


def oklch_to_srgb(lightness: float, chroma: float, hue: float) -> Color:
    """Oklab (Ottosson 2020) in polar form, hue in radians, to 8-bit sRGB; chroma shrinks until it fits."""
    while True:
        linear = _oklab_to_linear(lightness, chroma * math.cos(hue), chroma * math.sin(hue))
        if all(-1e-3 <= value <= 1 + 1e-3 for value in linear) or chroma < 0.01:
            red, green, blue = (round(255 * _gamma(min(max(value, 0.0), 1.0))) for value in linear)
            return red, green, blue
        chroma *= 0.95


def _oklab_to_linear(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _gamma(value: float) -> float:
    return float(12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055)


def text_color(background: Color) -> Color:
    """Black or white, whichever reads better (WCAG relative luminance)."""
    linear = [value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)
