"""How numbers read in a report: fixed digits, units a person thinks in, a dash where undefined."""

import math
import re

DASH = "–"
# What UTF-8, HTML or XML cannot hold: surrogates stand for bytes of an undecodable file name.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """Replace every character that a page cannot hold by "\N{REPLACEMENT CHARACTER}"."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def percent(value: float | None, digits: int = 1) -> str:
    """Format a share: 0.8094 -> "80.9%"."""
    return _unless_undefined(value, lambda number: f"{number * 100:.{digits}f}%")


def number(value: float | None, digits: int = 3) -> str:
    """Format with fixed decimals: 0.52341 -> "0.523"."""
    return _unless_undefined(value, lambda number: f"{number:.{digits}f}")


def scientific(value: float | None) -> str:
    """Format a value whose magnitude matters: 3e-4 -> "3.0e-4"."""

    def text(number: float) -> str:
        mantissa, exponent = f"{number:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}" if number else "0"

    return _unless_undefined(value, text)


def count(value: float | None) -> str:
    """Format a whole number with thin grouping: 1234567 -> "1,234,567"."""
    return _unless_undefined(value, lambda number: f"{int(number):,}")


def duration(seconds: float | None) -> str:
    """Format a time: 0.42 -> "0.42 s", 78.3 -> "1 min 18 s", 7260 -> "2 h 1 min"."""

    def text(number: float) -> str:
        if number < 9.995:
            return f"{number:.2g} s" if number < 0.995 else f"{number:.1f} s"
        whole = round(number)
        if whole < 60:
            return f"{whole} s"
        if whole < 3600:
            return f"{whole // 60} min {whole % 60} s"
        return f"{whole // 3600} h {whole % 3600 // 60} min"

    return _unless_undefined(seconds, text)


def memory(size: float | None) -> str:
    """Format bytes: 1.25e9 -> "1.2 GB"."""
    return _unless_undefined(
        size,
        lambda number: f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB",
    )


def plural(amount: int, noun: str, plural_noun: str = "") -> str:
    """Join a number and its noun: (1, "image") -> "1 image", (2, "class", "classes")."""
    return f"{amount:,} {noun if amount == 1 else plural_noun or noun + 's'}"


def _unless_undefined(value, text) -> str:
    if value is None or value == "" or math.isnan(float(value)):
        return DASH
    return text(float(value))
