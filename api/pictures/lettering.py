"""Text from outside in a picture: cleaned, cut to fit, drawn as plain text whatever it contains."""

import html
import re
import unicodedata
from functools import lru_cache
from typing import Final

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

FONT: Final = "DejaVu Sans"
"""Ships with matplotlib, so every machine has it."""
_CHINESE: Final = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("Droid Sans Fallback", "PingFang SC", "Microsoft YaHei"),
)
"""Fonts that draw Chinese where they are installed; the one that every machine has does not."""
_UNDRAWABLE: Final = "\N{WHITE SQUARE}"
_MARK: Final = "\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}{}\N{MATHEMATICAL RIGHT WHITE SQUARE BRACKET}"
_MARKS: Final = re.compile(_MARK.format(r"(\d+)"))
# Marks that change the direction of text could make a line read as something else.
_TURNING: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_ISOLATED: Final = "\u2068{}\u2069"
_MAX_LOOKED_AT: Final = 2000


@lru_cache(maxsize=1)
def families() -> tuple[str, ...]:
    """Return the fonts to draw with, in the order in which they are tried for a character."""
    installed = frozenset(fontManager.get_font_names())
    return (FONT, *(name for name in _CHINESE if name in installed))


@lru_cache(maxsize=1)
def _drawable() -> frozenset[int]:
    """Return the characters that some font has in both weights."""
    drawable: set[int] = set()
    for name in families():
        fonts = (findfont(FontProperties(family=[name], weight=weight)) for weight in ("normal", "bold"))
        plain, bold = (get_font(font).get_charmap() for font in fonts)
        drawable |= plain.keys() & bold.keys()
    return frozenset(drawable)


def clean(text: str, columns: int) -> str:
    """Return `text` in one line of at most `columns` columns, cut with an ellipsis; a Chinese character takes two.

    Controls, surrogates and direction marks are removed, blanks collapsed. The result is valid in XML.
    """
    spaced = " ".join(text[:_MAX_LOOKED_AT].split())
    kept = [character for character in spaced if character not in _TURNING and _is_text(character)]
    # A character without width (an accent on the one before) still takes a column: names have few of them.
    widths = [2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in kept]
    if sum(widths) <= columns and len(text) <= _MAX_LOOKED_AT:
        return "".join(kept)
    room = columns - 1
    cut: list[str] = []
    for character, width in zip(kept, widths, strict=True):
        room -= width
        if room < 0:
            break
        cut.append(character)
    return "".join(cut).rstrip() + "…"


def _is_text(character: str) -> bool:
    return unicodedata.category(character) not in {"Cc", "Cs"} and character not in "\ufffe\uffff"


class Lettering:
    """The text of one picture.

    The viewer of an SVG chooses its fonts, so matplotlib draws a placeholder for each text, and neither measures nor
    interprets what came from outside; `into_svg` then inserts the text.
    """

    def __init__(self, *, svg: bool) -> None:
        self._svg = svg
        self._words: list[str] = []

    def draw(self, text: str, columns: int) -> str:
        """Return the string to give to matplotlib for `text`, which comes from outside."""
        words = clean(text, columns)
        if not self._svg:
            return "".join(character if ord(character) in _drawable() else _UNDRAWABLE for character in words)
        self._words.append(words)
        return _MARK.format(len(self._words) - 1)

    def into_svg(self, svg: str) -> str:
        """Return the SVG with texts instead of placeholders, escaped, each with a direction of its own."""
        return _MARKS.sub(lambda mark: _ISOLATED.format(html.escape(self._words[int(mark[1])])), svg)
