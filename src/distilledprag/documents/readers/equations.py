"""Word's equations (Office Math) as one line of text: `(a+b)/2`, `√(x²+1)`, `x₁`."""

from __future__ import annotations

from typing import Any

from distilledprag.documents.readers.inline import fraction, grouped, lowered, raised, root

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
