"""`dprag audit`: what an adapter gives away."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from distilledprag.audit.adapters import Dial
from distilledprag.audit.page import ATTACKS
from distilledprag.audit.run import AuditOptions, audit
from distilledprag.errors import ConfigError


def dials(methods: list[str], layers: list[int], rows: list[float], noise: list[float], precision: list[str]) -> list[Dial]:
    """One dial is turned at a time: the first value of each is where it stands while others are turned."""
    found: dict[Dial, None] = {}
    for method in methods:
        start = Dial(method)
        if method == "state":
            start = Dial(method, layers[0] if layers else None, rows[0], noise[0], precision[0])
        found[start] = None
        if method == "state":
            turned = [replace(start, layer=value) for value in layers]
            turned += [replace(start, rows=value) for value in rows]
            turned += [replace(start, noise=value) for value in noise]
            turned += [replace(start, precision=value) for value in precision]
            found |= dict.fromkeys(turned)
    return list(found)


def run(options: AuditOptions) -> None:
    """Prints the table; the report is in `options.out`."""
    for dial in options.dials:
        if dial.precision not in ("int8", "float16"):
            raise ConfigError(f"--precision {dial.precision}: rows travel as int8 or float16")
        if not 0 < dial.rows <= 1 or dial.noise < 0:
            raise ConfigError("--rows is a share above 0 and up to 1, --noise a number from 0")
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("loading", total=None)

        def say(what: str, done: int, of: int) -> None:
            progress.update(bar, description=what, completed=done, total=of)

        report = audit(options, say)
    table = Table("adapter", "attacker", "tokens", "rare", "names, numbers", "ROUGE-1", "ROUGE-2", "F1", title=str(options.out))
    for row in report["rows"]:
        names = ("tokens", "rare_tokens", "names_and_numbers", "rouge1", "rouge2", "f1")
        cells = [f"{row['scores'][name]['mean']:.3f}" if name in row["scores"] else "" for name in names]
        table.add_row(row["name"], ATTACKS[row["attacker"]], *cells)
    console = Console()
    console.print(table)
    console.print(f"{options.out / 'report.json'}, {options.out / 'report.html'}", soft_wrap=True)
