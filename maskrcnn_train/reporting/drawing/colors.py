"""One colour a class: far apart to the eye, and the same in every picture, page and run."""

import colorsys

Color = tuple[int, int, int]
GOLDEN_ANGLE = 0.381966  # of a turn: any number of hues, none close to its neighbours
LIGHTNESS = (0.6, 0.45, 0.75)


def class_color(label: int) -> Color:
    """The sRGB colour of class `label` (1..K), in turns of three lightnesses."""
    hue = (0.02 + GOLDEN_ANGLE * (label - 1)) % 1
    red, green, blue = colorsys.hls_to_rgb(hue, LIGHTNESS[(label - 1) % 3], 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_color(background: Color) -> Color:
    """Black or white, whichever reads better (WCAG relative luminance)."""
    linear = [value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)
