"""Every byte that reached the engine over many questions and documents, looked at by code of its own, not the guard's."""

from __future__ import annotations

import base64
import json
import random
import re

import pytest

from distilledprag.lora.weights import LoraWeights

ATTRIBUTES = ["lives in {}", "works for {}", "owns the vessel {}"]


def made_up(count, seed):
    """Documents about made-up people, and a question about each that names the person only."""
    chosen = random.Random(seed)

    def name():
        parts = ["bar", "den", "kel", "mor", "tov", "vin", "gras", "hol", "lind", "ost", "quen", "ruf"]
        return "".join(chosen.sample(parts, 3)).capitalize()

    documents, questions = {}, []
    for number in range(count):
        person = f"{name()} {name()}"
        facts = [f"{person} {template.format(name())}." for template in ATTRIBUTES]
        facts.append(
            f"{person} earns ${chosen.randint(10, 99)},{chosen.randint(100, 999)} and joined in {chosen.randint(1950, 2024)}."
        )
        documents[f"{number}.txt"] = " ".join(facts)
        questions += [f"Where does {person} live?", f"What does {person} own?"]
    return documents, questions


def plain_words(text):
    return re.findall(r"[a-z0-9]+", text.lower())


@pytest.mark.slow
def test_no_run_of_document_tokens_and_no_rare_token_leaves_in_200_questions_over_100_documents(stage):
    gateway = stage()
    documents, questions = made_up(100, seed=0)
    gateway.add(documents)
    for question in questions:
        assert gateway.ask(question, max_tokens=1).status_code == 200
    secrets = {word for text in documents.values() for word in plain_words(text) if len(word) > 3}
    runs = {
        tuple(words[i : i + 3]) for text in documents.values() for words in [plain_words(text)] for i in range(len(words) - 2)
    }
    asked = [json.loads(request.body) for request in gateway.engine.received if request.path == "/v1/completions"]
    assert len(asked) == 200 and gateway.engine.uploads()
    tokenizer, mask = gateway.prag.base.tokenizer, gateway.prag.base.mask_token_id
    ids = {name: tokenizer(" " + text, add_special_tokens=False).input_ids for name, text in documents.items()}
    id_runs = {tuple(own[i : i + 3]) for own in ids.values() for i in range(len(own) - 2)}
    empty = plain_words(tokenizer.decode(gateway.prag.prompts.build("x", ["", "", ""]).open_ids))
    for question, request in zip(questions, asked, strict=True):
        allowed = set(plain_words(question)) | set(empty)
        text = plain_words(tokenizer.decode([index for index in request["prompt"] if index != mask]))
        assert not (set(text) - allowed) & secrets
        question_ids = gateway.prag.prompts.build(question, ["", "", ""]).open_ids
        own_runs = {tuple(question_ids[i : i + 3]) for i in range(len(question_ids) - 2)}
        prompt = request["prompt"]
        assert not ({tuple(prompt[i : i + 3]) for i in range(len(prompt) - 2)} - own_runs) & id_runs
    names_of_all = {word for word in secrets if not word.isdigit() and len(word) > 6}
    for request in gateway.engine.received:
        whole = json.dumps(request.headers).encode() + request.path.encode() + request.body
        texts = [whole.decode("latin-1").lower()]
        texts += [base64.b64decode(run + b"==").decode("latin-1").lower() for run in re.findall(rb"[A-Za-z0-9+/]{24,}", whole)
                  if len(run) % 4 != 1]  # fmt: skip
        for text in texts:
            found = re.findall(r"[a-z0-9]+", text)
            assert not names_of_all & set(found)
            assert not runs & {tuple(run) for run in zip(found, found[1:], found[2:], strict=False) if "".join(run).isalpha()}
    for upload in gateway.engine.uploads():
        assert LoraWeights.from_bytes(upload.body).modules
