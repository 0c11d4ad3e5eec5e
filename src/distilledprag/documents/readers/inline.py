"""What stands inside a line: raised and lowered letters, and fractions and roots of equations, as plain text."""

from __future__ import annotations

_RAISED = dict(zip("0123456789+-−=()nix", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿⁱˣ", strict=True))
_LOWERED = dict(zip("0123456789+-−=()aeoxijn", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎ₐₑₒₓᵢⱼₙ", strict=True))


def raised(text: str) -> str:
    """`6` -> `⁶`, so that ten to the sixth does not become 106; `a b` -> `^(a b)`. Words such as `th` and `TM` stay."""
    text = text.strip()
    if text and all(character in _RAISED for character in text):
        return "".join(_RAISED[character] for character in text)
    return text if text.isalpha() or not text else f"^{grouped(text)}"


def lowered(text: str) -> str:
    """`2` -> `₂`; what has no lowered form -> `_text`."""
    text = text.strip()
    if text and all(character in _LOWERED for character in text):
        return "".join(_LOWERED[character] for character in text)
    return f"_{grouped(text)}" if text else ""


def fraction(above: str, below: str) -> str:
    """`a+b` over `2` -> `(a+b)/2`."""
    return f"{grouped(above)}/{grouped(below)}"


def root(text: str, degree: str = "") -> str:
    """`x+1` -> `√(x+1)`."""
    return f"{raised(degree) if degree else ''}√{grouped(text)}"


def grouped(text: str) -> str:
    """In brackets, unless it is one number or word."""
    text = text.strip()
    return text if text.replace(".", "").replace(",", "").isalnum() else f"({text})"
