"""Looks for documents in recorded bytes, with code of its own: none of the guard's."""

from __future__ import annotations

import base64
import binascii
import random
import re

PARTS = ["bar", "den", "kel", "mor", "tov", "vin", "gras", "hol", "lind", "ost", "quen", "ruf"]
IDS = re.compile(rb'"prompt":\s*\[([0-9,\s]+)\]')


def made_up(count, seed):
    """Documents about made-up people, and two questions about each that name the person only."""
    chosen = random.Random(seed)

    def name():
        return "".join(chosen.sample(PARTS, 3)).capitalize()

    documents, questions = {}, []
    for number in range(count):
        person = f"{name()} {name()}"
        facts = [f"{person} lives in {name()}. {person} works for {name()} and owns the vessel {name()}."]
        facts.append(f"The salary is ${chosen.randint(100, 999)},{chosen.randint(100, 999)} since {chosen.randint(1950, 2024)}.")
        facts.append(
            f"Write to {name().lower()}@{name().lower()}.example, in reference to the case {chosen.randint(10**6, 10**7)}."
        )
        documents[f"{number}.txt"] = " ".join(facts)
        questions += [f"Where does {person} live?", f"Which vessel does {person} own?"]
    return documents, questions


def words(text):
    return re.findall(r"[a-z0-9]+", text.lower())


def runs(items, size=3):
    return set(zip(*(items[start:] for start in range(size)), strict=False))


def views(data: bytes):
    """The bytes as texts: as they are, JSON's escapes undone, UTF-16, and what base64, hexadecimal or per cent hide."""
    yield data.decode("latin-1")
    yield re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), data.decode("latin-1"))
    yield re.sub(rb"%([0-9a-fA-F]{2})", lambda found: bytes([int(found[1], 16)]), data).decode("latin-1")
    yield data.replace(b"\x00", b"").decode("latin-1")
    for run in re.findall(rb"[A-Za-z0-9+/_-]{16,}", data):
        for start in range(4):
            cut = run[start:].translate(bytes.maketrans(b"-_", b"+/"))
            yield base64.b64decode(cut[: len(cut) // 4 * 4]).decode("latin-1")
    for run in re.findall(rb"(?:[0-9a-fA-F]{2}){8,}", data):
        yield binascii.unhexlify(run).decode("latin-1")


def pieces(data: bytes, size=2**20, overlap=500):
    """Parts of a long recording, so that its views fit into memory."""
    return [data[start : start + size + overlap] for start in range(0, len(data), size)]


def prompts(data: bytes):
    """The token ids of every prompt that was sent."""
    return [[int(id) for id in found.split(b",")] for found in IDS.findall(data)]


def leaks(data: bytes, documents, questions, tokenizer, mask_id, empty_prompt):
    """What of the documents stands in the bytes that the questions do not say: (kind, what) pairs."""
    asked = {word for question in questions for word in words(question)}
    own = {word for text in documents.values() for word in words(text)}
    rare = {word for word in own - asked if len(word) > 6 or (word.isdigit() and len(word) > 5)}
    asked_runs = {run for question in questions for run in runs(words(question))}
    secret_runs = {run for text in documents.values() for run in runs(words(text))} - asked_runs
    found = []
    payload = IDS.sub(b"", data)  # ids are numbers: as numbers they are looked at below
    for text in (text for piece in pieces(payload) for text in views(piece)):
        seen = words(text)
        found += [("word", word) for word in rare & set(seen)]
        found += [("run", run) for run in secret_runs & runs(seen) if all(len(word) > 1 for word in run)]
    encoded = [tokenizer(" " + text, add_special_tokens=False).input_ids for text in documents.values()]
    allowed = {run for question in questions for run in runs(empty_prompt(question))}
    id_runs = {run for ids in encoded for run in runs(ids)} - allowed
    frame = set(words(tokenizer.decode(empty_prompt("x"))))
    for prompt in prompts(data):
        found += [("ids", run) for run in id_runs & runs(prompt)]
        said = words(tokenizer.decode([id for id in prompt if id != mask_id]))
        found += [("decoded", word) for word in (own - asked - frame) & set(said) if len(word) > 3]
    return found
