"""The wire audit as figures: `python tests/e2e/audit_report.py` asks 200 questions over 100 documents and writes
docs/results/wire-audit.json and .md (a quarter of an hour on one core)."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from wire_audit import Audit, Documents, requests_in
from wire_leaks import missed
from wire_recording import Exchange, made_up, record

from distilledprag import __version__
from distilledprag.files import write_atomically
from distilledprag.pipeline import DistilledPRAG

RESULTS = Path(__file__).parents[2] / "docs" / "results"
HEAD = """# Wire audit

Made by `python tests/e2e/audit_report.py`: a recording proxy between a real gateway and a real engine, made-up documents, two
questions about each. For each question everything that left is searched, with code that shares nothing with the guard
(`tests/e2e/wire_audit.py`), for three words or tokens of any document in a row, and for names and numbers of any document that
this question does not contain; in headers, paths, JSON (as UTF-8, JSON escapes, per cent, base64, hexadecimal, UTF-16, token
ids) and in the adapters' numbers (the same, and token ids as integers and floats). The controls are leaks of each kind, planted
into a recorded exchange: the audit must find every one.

"""
LIMIT = """
Not looked for, since noise holds it by chance: among an adapter's numbers, words and numbers under seven bytes (under five for
the passages that were used), and fewer than eight tokens in a row. The audit is about what stands in the bytes; what an
adapter *answers* is another matter ([the gateway](../gateway.md#the-wire-guard)).
"""


def measured(count: int, folder: Path, base: Path | None = None, top_k: int = 3) -> dict[str, Any]:
    """Ask `2 * count` questions over `count` documents and audit all that left. `folder`: for the servers; `base`: a
    prepared folder, None: the default one."""
    texts, questions = made_up(count, seed=count)
    began = time.monotonic()
    exchanges = record(texts, questions, folder, base, top_k)
    return audited(texts, exchanges, base, count, top_k) | {"seconds_asking": round(time.monotonic() - began, 1)}


def audited(texts: dict[str, str], exchanges: list[Exchange], base: Path | None, seed: int, top_k: int) -> dict[str, Any]:
    """What the audit finds in the exchanges, and what it would find."""
    prag = DistilledPRAG.from_pretrained(base)

    def empty_prompt(question: str) -> list[int]:
        return prag.prompts.build(question, [""] * top_k).open_ids

    documents = Documents(texts, prag.base.tokenizer, prag.base.mask_token_id, empty_prompt)
    findings = [
        {"question": number, "where": where, "what": what}
        for number, exchange in enumerate(exchanges)
        for where, what in Audit(documents, exchange).findings()
    ]
    requests = [request for exchange in exchanges for data in exchange.sent for request in requests_in(data)]
    with_upload = next(e for e in exchanges if any(b"POST /v1/adapters " in data for data in e.sent))
    planted, unseen = missed(documents, with_upload)
    return {
        "config": {"documents": len(texts), "questions": len(exchanges), "seed": seed, "top_k": top_k},
        "versions": {
            "distilledprag": __version__,
            "base": prag.base.identity.config_hash,
            "generator": prag.generator_identity,
        },
        "answered_from_documents": sum(exchange.mode == "parametric" for exchange in exchanges),
        "requests": len(requests),
        "uploads": sum(request.method == "POST" and request.path == "/v1/adapters" for request in requests),
        "bytes": sum(len(data) for exchange in exchanges for data in exchange.sent),
        "looked_for": {
            "token_runs": len(documents.id_runs),
            "word_runs": len(documents.runs),
            "rare_words": len(documents.all_rare),
        },
        "findings": findings,
        "controls": {"planted": planted, "missed": unseen},
    }


def table(result: dict[str, Any]) -> str:
    config, sought, controls = result["config"], result["looked_for"], result["controls"]
    rows = [
        ("documents, questions, passages for each", f"{config['documents']}, {config['questions']}, {config['top_k']}"),
        ("requests, of them uploads of an adapter", f"{result['requests']}, {result['uploads']}"),
        ("bytes that left", f"{result['bytes']:,}"),
        ("runs of three tokens, of three words, rare words looked for", ", ".join(map(str, sought.values()))),
        ("**found**", f"**{len(result['findings'])}**"),
        ("planted leaks, of them missed", f"{controls['planted']}, {len(controls['missed'])}"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--top-k", type=int, default=3, help="passages for each question")
    parser.add_argument("--base", type=Path, help="prepared folder; the default one without it")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measured(options.documents, Path(folder), options.base, options.top_k)
    write_atomically(options.out / "wire-audit.json", json.dumps(result, indent=1) + "\n")
    write_atomically(options.out / "wire-audit.md", HEAD + table(result) + LIMIT)
    print(json.dumps({name: result[name] for name in ("config", "bytes", "uploads", "findings", "controls")}))
    sys.exit(bool(result["findings"] or result["controls"]["missed"]))


if __name__ == "__main__":
    main()
