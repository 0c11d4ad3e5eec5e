"""Raised and lowered letters, fractions, roots and Word's equations (Office Math) as plain text: `(a+b)/2`, `√(x²+1)`, `x₁`."""

from __future__ import annotations

from typing import Any

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


_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"


def equation(element: Any) -> str:
    """The text of an `m:` element and all below it."""
    name = element.tag.removeprefix(_M) if isinstance(element.tag, str) else ""

    def part(child: str) -> str:
        found = element.find(_M + child)
        return "" if found is None else inside(found)

    match name:
        case "t":
            return element.text or ""
        case "f":
            return fraction(part("num"), part("den"))
        case "sSup":
            return part("e") + raised(part("sup"))
        case "sSub":
            return part("e") + lowered(part("sub"))
        case "sSubSup":
            return part("e") + lowered(part("sub")) + raised(part("sup"))
        case "sPre":
            return lowered(part("sub")) + raised(part("sup")) + part("e")
        case "rad":
            return root(part("e"), part("deg"))
        case "nary":
            sign = _property(element, "naryPr", "chr") or "∫"
            return f"{sign}{lowered(part('sub'))}{raised(part('sup'))} {part('e')}"
        case "d":
            begin, end = _property(element, "dPr", "begChr"), _property(element, "dPr", "endChr")
            inner = ", ".join(inside(child) for child in element.findall(_M + "e"))
            return f"{'(' if begin is None else begin}{inner}{')' if end is None else end}"
        case "func":
            return f"{part('fName')}{grouped(part('e'))}"
        case "m":
            return "[" + "; ".join(", ".join(inside(cell) for cell in row) for row in element.findall(_M + "mr")) + "]"
    return inside(element)


def inside(element: Any) -> str:
    """The text of all that is below an element."""
    return "".join(equation(child) for child in element)


def _property(element: Any, group: str, name: str) -> str | None:
    found = element.find(f"{_M}{group}/{_M}{name}")
    return None if found is None else found.get(f"{_M}val", "")
