"""Questions through real sockets: what the client gets, what the engine gets, and what happens when the engine fails."""

from __future__ import annotations

import json
import threading
import time
from types import SimpleNamespace

import gateway_serving
import openai
import pytest
from gateway_serving import DOCUMENTS

from distilledprag.base.llm import PassageEncoder, greedy_texts
from distilledprag.gateway import adapter_cache
from distilledprag.gateway.application import Options
from distilledprag.generators.kept_states import KeptStates
from distilledprag.lora.states import StateAdapter

QUESTION = "Where does Anna Tovberg live?"


def test_the_answer_is_the_one_of_the_parts_put_together_by_hand(stage):
    gateway = stage()
    gateway.add()
    record = gateway.ask(QUESTION, max_tokens=12, distilledprag={"top_k": 1}).json()
    prag, text = gateway.prag, DOCUMENTS["staff.txt"]
    adapter = StateAdapter.from_bytes(prag.encode_states([text]).to_bytes())
    prompt = prag.prompts.build(QUESTION, [text]).masked_ids
    expected = greedy_texts(prag.base, [prompt], None, prag.prompts.end_of_turn_id, 12, [adapter])[0]
    assert record["choices"][0]["message"]["content"] == expected and expected
    assert gateway.engine.prompts() == [prompt]


def test_the_answer_tells_its_passages_what_was_sent_and_how_long_it_took(stage):
    gateway = stage()
    ids = gateway.add()
    record = gateway.ask(QUESTION, max_tokens=4).json()
    details = record["distilledprag"]
    best = details["passages"][0]
    assert (best["document"], best["source"], best["text"]) == (ids[0], "staff.txt", DOCUMENTS["staff.txt"])
    sent = details["sent"]
    assert sent["prompt"].count("<|doc_mask|>") == sent["masked_tokens"] > 10 and "Oakport" not in sent["prompt"]
    assert sent["adapter_bytes"] == len(gateway.engine.uploads()[0].body)
    assert [(r["method"], r["path"]) for r in sent["requests"]] == [("POST", "/v1/adapters"), ("POST", "/v1/completions")]
    assert sent["bytes_total"] == sum(r["bytes"] for r in sent["requests"]) > sent["adapter_bytes"]
    assert sent["adapter"] == {"rows": sent["masked_tokens"], "width": 32, "layer": 1, "bytes": sent["adapter_bytes"]}
    assert set(details["seconds"]) >= {"retrieve", "encode", "upload", "answer", "total"}
    assert record["usage"]["total_tokens"] == record["usage"]["prompt_tokens"] + record["usage"]["completion_tokens"]
    assert "distilledprag" not in gateway.ask(QUESTION, max_tokens=4, distilledprag={"details": False}).json()


def test_a_streamed_answer_is_the_whole_one_in_pieces(stage):
    gateway = stage()
    gateway.add()
    whole = gateway.ask(QUESTION, max_tokens=12).json()["choices"][0]["message"]["content"]
    events = gateway.events(QUESTION, max_tokens=12, stream_options={"include_usage": True})
    assert events[-1] == "[DONE]" and events[-2]["choices"] == [] and events[-2]["usage"]["completion_tokens"] > 0
    chunks = events[:-2]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks).strip() == whole
    assert len(chunks) > 4 and chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[0]["distilledprag"]["passages"] and chunks[-1]["distilledprag"]["seconds"]["total"] > 0
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_the_official_client_works_unchanged(stage):
    gateway = stage()
    gateway.add()
    client = openai.OpenAI(base_url=f"{gateway.client.base_url}/v1".replace("//v1", "/v1"), api_key="unused", max_retries=0)
    assert next(iter(client.models.list())).id == "distilledprag"
    messages = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    answer = client.chat.completions.create(model="distilledprag", messages=messages, max_completion_tokens=8)
    assert answer.choices[0].message.content and answer.distilledprag["passages"]
    stream = client.chat.completions.create(model="distilledprag", messages=messages, max_tokens=8, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces).strip() == answer.choices[0].message.content


def test_an_application_that_names_another_model_need_not_change_it(stage):
    gateway = stage()
    gateway.add()
    own = gateway.ask(QUESTION, max_tokens=4).json()
    foreign = gateway.ask(QUESTION, model="gpt-4o", max_tokens=4).json()
    assert foreign["choices"] == own["choices"] and foreign["model"] == "distilledprag" and foreign["distilledprag"]["passages"]
    assert gateway.ask(QUESTION, model="ft:gpt-4o:rag", max_tokens=2).json()["distilledprag"]["mode"] == "parametric"
    assert gateway.ask(QUESTION, model="distilledprag:none", max_tokens=2).status_code == 404
    assert gateway.ask(QUESTION, model="distilledprag:closed_book", max_tokens=2).json()["model"] == "distilledprag:closed_book"


def test_a_strict_gateway_says_which_models_there_are(stage):
    gateway = stage(Options(accept_any_model=False))
    response = gateway.ask(QUESTION, model="gpt-4o")
    assert response.status_code == 404 and "distilledprag:closed_book" in response.json()["error"]["message"]


def test_the_seed_reaches_the_engine_and_a_choice_of_no_tools_changes_nothing(stage):
    gateway = stage()
    gateway.add()
    for choice in ("auto", "none", None):
        assert gateway.ask(QUESTION, max_tokens=2, seed=7, temperature=0.5, tool_choice=choice).status_code == 200
    sent = [json.loads(request.body) for request in gateway.engine.received if request.path == "/v1/completions"]
    assert [(fields["seed"], fields["temperature"]) for fields in sent] == [(7, 0.5)] * 3


@pytest.mark.parametrize("quota", [1, 2])
def test_an_engine_without_room_is_made_to_drop_the_oldest_adapter(stage, quota):
    gateway = stage()
    gateway.engine.quota = quota
    gateway.add()
    questions = ("Where is Velkor Foods based?", QUESTION, "When was the Copperleaf built?", "Where is Velkor Foods based?")
    for question in questions:
        assert gateway.ask(question, max_tokens=2, distilledprag={"top_k": 1}).status_code == 200
    assert len(gateway.engine.adapters) == quota


def test_a_gateway_makes_room_among_what_a_killed_one_left_there(stage):
    gateway = stage()
    gateway.engine.quota = 2
    gateway.engine.adapters = {f"left-{number}": None for number in range(2)}
    gateway.add()
    assert gateway.ask(QUESTION, max_tokens=2).status_code == 200
    assert next(iter(gateway.engine.adapters)) == "left-1" and len(gateway.engine.adapters) == 2


def test_an_engine_that_is_full_of_others_adapters_is_passed_on_as_busy(stage):
    gateway = stage()
    gateway.engine.quota = 0
    gateway.add()
    response = gateway.ask(QUESTION, max_tokens=2)
    assert response.status_code == 429 and response.headers["retry-after"] == "3600"


def test_an_adapter_is_uploaded_once_for_the_same_passages(stage):
    gateway = stage()
    gateway.add()
    first = gateway.ask(QUESTION, max_tokens=2).json()["distilledprag"]["sent"]
    again = gateway.ask("In which city does Anna Tovberg live in?", max_tokens=2).json()["distilledprag"]["sent"]
    assert first["adapter_uploaded"] and not again["adapter_uploaded"] and again["bytes_total"] < first["bytes_total"]
    assert len(gateway.engine.uploads()) == 1


def test_two_questions_at_the_same_time_share_one_adapter(stage):
    gateway = stage()
    gateway.add()
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append(gateway.ask(QUESTION, max_tokens=2).status_code)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 4 and len(gateway.engine.uploads()) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_restarted_engine_gets_the_adapter_again_and_the_client_notices_nothing(stage, stream):
    gateway = stage()
    gateway.add()
    assert gateway.ask(QUESTION, max_tokens=2).status_code == 200
    gateway.engine.adapters.clear()
    if stream:
        assert gateway.events(QUESTION, max_tokens=2)[-1] == "[DONE]"
    else:
        assert gateway.ask(QUESTION, max_tokens=2).status_code == 200
    assert len(gateway.engine.uploads()) == 2


@pytest.mark.parametrize("lifetime, uploads", [(70.0, 1), (3.0, 1), (-100.0, 1), (None, 1)])
def test_a_clock_that_is_wrong_does_not_cause_an_upload_for_each_question(stage, lifetime, uploads):
    gateway = stage()
    gateway.engine.lifetime = lifetime
    gateway.add()
    for _ in range(3):
        assert gateway.ask(QUESTION, max_tokens=2).status_code == 200
    assert len(gateway.engine.uploads()) == uploads


def test_an_adapter_that_ends_soon_is_uploaded_before_it_ends(stage, monkeypatch):
    gateway = stage()
    gateway.add()
    gateway.ask(QUESTION, max_tokens=2)
    later = time.monotonic() + 3590
    monkeypatch.setattr(adapter_cache, "time", SimpleNamespace(monotonic=lambda: later))
    gateway.ask(QUESTION, max_tokens=2)
    assert len(gateway.engine.uploads()) == 2


LONG = {
    "harbour.txt": "The harbour of the town was built in 1874. It was repaired twice. Grain was the first cargo.",
    "people.txt": "Anna Tovberg lives in Millport. Her brother sails. He was born in spring. They seldom meet in the town hall.",
    "weather.txt": "It rains in Dunburg. The wind is strong. Nobody lives there for long. The town has a bridge and a school.",
}


def test_chosen_rows_send_whole_sentences_and_fewer_of_them(stage):
    """Passages of which nothing is chosen keep their place in the prompt; the guard counts the masks of what is left."""
    question = "In which town does Anna Tovberg live?"
    sent = {}
    for rows in (None, 0.4, 70):
        gateway = stage(Options(rows=rows))
        if rows is None:
            gateway.add(LONG)
        details = gateway.ask(question, max_tokens=2).json()["distilledprag"]
        assert len(details["passages"]) == 3 and {p["text"] for p in details["passages"]} == set(LONG.values())
        assert details["sent"]["adapter"]["rows"] == details["sent"]["masked_tokens"]
        sent[rows] = details["sent"]
    assert 0 < sent[0.4]["masked_tokens"] < 0.7 * sent[None]["masked_tokens"]
    assert 0 < sent[70]["masked_tokens"] <= 75  # sentences are counted one by one, and encoded side by side
    assert all(s["prompt"].count("Passage") == sent[None]["prompt"].count("Passage") for s in sent.values())
    assert sent[70]["adapter_bytes"] < sent[None]["adapter_bytes"]


@pytest.mark.parametrize("rows", [None, 0.5])
def test_rounded_masks_tell_a_passages_length_no_more_precisely_than_that(stage, rows):
    """Documents of 9 to 40 words look alike, in the prompt, in the adapter and in what the answer says of them."""
    stage = stage(Options(round_masks_to=64, rows=rows))
    stage.add({f"{count}.txt": f"Anna Tovberg {'likes figs and pears. ' * count}" for count in (2, 5, 9)})
    asked = [stage.ask(f"What does Anna like, {number}?", distilledprag={"top_k": 1}) for number in range(2)]
    asked.append(stage.ask("What does Anna like?", distilledprag={"top_k": 3}))
    assert [answer.status_code for answer in asked] == [200, 200, 200]
    mask = stage.prag.base.mask_token_id
    assert {prompt.count(mask) for prompt in stage.engine.prompts()} <= {64, 128, 192}
    for adapter in stage.engine.adapters.values():
        assert adapter.count % 64 == 0
    sent = asked[-1].json()["distilledprag"]["sent"]
    assert sent["masked_tokens"] == sent["adapter"]["rows"] == sent["prompt"].count(stage.prag.base.tokenizer.decode([mask]))


def test_passages_that_the_model_has_no_room_for_are_left_out_and_answer_and_log_say_so(stage, caplog):
    gateway = stage(Options(allow_plaintext=True))
    sentence = "In room {} Anna Tovberg keeps {} boxes of letters."
    many = {f"{a}.txt": " ".join(sentence.format(100 * a + b, 7 * b + a) for b in range(40)) for a in range(12)}
    gateway.add(many)
    for mode in ("parametric", "rag"):
        answer = gateway.ask("Where does Anna Tovberg live?", max_tokens=4, distilledprag={"top_k": 20, "mode": mode})
        assert answer.status_code == 200, answer.text
        details = answer.json()["distilledprag"]
        (warning,) = details["warnings"]
        assert "tokens were left out" in warning and "room for" in warning and details["sent"]["prompt_tokens"] < 2048
    assert "passage tokens were left out of a prompt" in caplog.text and "Tovberg" not in caplog.text


def test_max_tokens_that_the_model_has_no_room_for_are_lowered_and_the_answer_says_so(stage, monkeypatch):
    gateway = stage()
    gateway.add()
    sent = []
    monkeypatch.setattr(gateway_serving, "greedy_ids", lambda *given: sent.append(given[4]) or [[5]])
    details = gateway.ask(QUESTION, max_tokens=10**9).json()["distilledprag"]
    assert sent == [2048 - details["sent"]["prompt_tokens"]] and f"lowered from 1000000000 to {sent[0]}" in details["warnings"][0]


@pytest.mark.parametrize("status", [400, 413, 422, 504])
def test_what_the_engine_refuses_keeps_its_status_code_and_field(stage, status):
    gateway = stage()
    gateway.add()
    gateway.engine.refuse_with = (status, {})
    gateway.engine.refusal = {"code": "odd_setting", "param": "temperature"}
    error = gateway.ask(QUESTION, max_tokens=2)
    assert error.status_code == status and error.json()["error"] == {
        "message": "not now", "type": "invalid_request_error", "param": "temperature", "code": "odd_setting",
    }  # fmt: skip
    gateway.engine.refusal = {"code": "Anna Tovberg, lives <b>here", "param": ["x"]}
    error = gateway.ask(QUESTION, max_tokens=2).json()["error"]
    assert error["code"] == "engine" and error["param"] is None


def test_a_stop_text_or_schema_that_repeats_a_document_is_treated_as_a_question_that_does(stage):
    gateway = stage()
    gateway.add()
    quote = DOCUMENTS["companies.txt"]
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [quote]}}}
    for fields in ({"stop": [quote]}, {"response_format": schema}):
        refused = gateway.ask(QUESTION, max_tokens=2, **fields)
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "quotes_document"
    assert not gateway.engine.prompts()
    assert gateway.ask(QUESTION, max_tokens=2, stop=["Oakport"]).status_code == 200  # the user's own word, and a document's


def test_deleting_a_document_deletes_what_was_made_from_it_at_the_engine(stage):
    gateway = stage()
    ids = gateway.add()
    gateway.ask(QUESTION, max_tokens=2)
    assert len(gateway.engine.adapters) == 1
    gateway.client.delete(f"/v1/documents/{ids[0]}")
    after = gateway.ask(QUESTION, max_tokens=2).json()["distilledprag"]
    assert ids[0] not in [passage["document"] for passage in after["passages"]]
    deletions = [request for request in gateway.engine.received if request.method == "DELETE"]
    assert len(deletions) == 1 and len(gateway.engine.adapters) == (1 if after["passages"] else 0)


@pytest.mark.parametrize("rows", [None, 0.4])
def test_deleting_a_document_makes_the_generator_forget_its_states_and_no_others(stage, monkeypatch, rows):
    gateway, text = stage(Options(rows=rows)), " ".join(LONG.values())
    ids, forgotten = gateway.add({"all.txt": text, "other.txt": "Anna Tovberg has a town house."}), []
    details = gateway.ask("In which town does Anna Tovberg live?", max_tokens=2).json()["distilledprag"]
    assert len(details["passages"]) == 2
    real = gateway.prag.states.forget
    monkeypatch.setattr(gateway.prag.states, "forget", lambda texts: (forgotten.extend(texts), real(texts)))
    assert gateway.client.delete(f"/v1/documents/{ids[0]}").status_code == 200
    assert forgotten == [text]


def test_what_was_encoded_is_kept_beside_the_store_and_deleted_with_its_document(stage, monkeypatch):
    gateway = stage()
    kept = KeptStates(gateway.store.reading_folder)
    monkeypatch.setattr(gateway.prag.states, "kept", kept)
    ids, texts = gateway.add(), list(DOCUMENTS.values())
    gateway.ask(QUESTION, max_tokens=2, distilledprag={"top_k": 1})
    space = gateway.prag.states.space(1)
    assert kept.missing(space, texts) == texts[1:]
    gateway.prag.states.keep(texts)
    monkeypatch.setattr(PassageEncoder, "states", lambda *_: pytest.fail("encoded again"))
    assert gateway.ask("Where is Velkor Foods based?", max_tokens=2, distilledprag={"top_k": 1}).status_code == 200
    gateway.client.delete(f"/v1/documents/{ids[0]}")
    assert kept.missing(space, texts) == texts[:1]
    kept.close()


def test_the_adapters_in_memory_are_bounded(stage):
    gateway = stage(Options(adapter_memory=1))
    gateway.add()
    for question in ("Where is Velkor Foods based?", QUESTION, "When was the Copperleaf built?"):
        assert gateway.ask(question, max_tokens=2, distilledprag={"top_k": 1}).status_code == 200
    assert len(gateway.engine.uploads()) == 3 and len(gateway.engine.adapters) <= 2


def test_closed_book_sends_the_question_only(stage):
    gateway = stage()
    gateway.add()
    for body in ({"distilledprag": {"mode": "closed_book"}}, {"model": "distilledprag:closed_book"}):
        messages = [{"role": "user", "content": QUESTION}]
        record = gateway.client.post(
            "/v1/chat/completions", json={"model": "distilledprag", "messages": messages, "max_tokens": 2, **body}
        ).json()
        assert record["distilledprag"]["passages"] == [] and record["distilledprag"]["sent"]["adapter_bytes"] == 0
    assert gateway.engine.prompts() == [gateway.prag.prompts.closed_book(QUESTION)] * 2 and not gateway.engine.uploads()


def test_plain_rag_is_refused_unless_the_operator_allows_it(stage):
    gateway = stage()
    gateway.add()
    refused = gateway.ask(QUESTION, max_tokens=2, distilledprag={"mode": "rag"})
    assert refused.status_code == 403 and "--allow-plaintext" in refused.json()["error"]["message"]
    assert not gateway.engine.prompts() and "distilledprag:rag" not in gateway.client.get("/v1/models").text


def test_plain_rag_sends_the_open_prompt_where_it_is_allowed(stage):
    gateway = stage(Options(allow_plaintext=True))
    gateway.add()
    record = gateway.ask(QUESTION, max_tokens=2, distilledprag={"mode": "rag", "top_k": 1}).json()
    assert gateway.engine.prompts() == [gateway.prag.prompts.build(QUESTION, [DOCUMENTS["staff.txt"]]).open_ids]
    assert "Oakport" in record["distilledprag"]["sent"]["prompt"] and not gateway.engine.uploads()


def test_a_question_that_no_document_speaks_of_is_asked_without_documents_and_says_so(stage):
    gateway = stage()
    gateway.add()
    details = gateway.ask("zzz qqq?", max_tokens=2).json()["distilledprag"]
    assert details["mode"] == "closed_book" and "without documents" in details["warnings"][0]


def test_earlier_messages_reach_the_prompt_and_the_last_one_is_the_question(stage):
    gateway = stage()
    gateway.add()
    history = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there."}]
    history.append({"role": "assistant", "content": "Good day."})
    assert gateway.ask(QUESTION, history=history, max_tokens=2, distilledprag={"top_k": 1}).status_code == 200
    text = DOCUMENTS["staff.txt"]
    assert gateway.engine.prompts() == [gateway.prag.prompts.build(QUESTION, [text], history).masked_ids]


def test_an_answer_of_the_engine_may_go_back_and_the_same_words_from_elsewhere_may_not(stage):
    gateway = stage()
    gateway.add()
    quote = "Anna Tovberg lives in Oakport."
    history = [{"role": "user", "content": "Who lives there?"}, {"role": "assistant", "content": quote}]
    refused = gateway.ask("And what does she earn?", history=history, max_tokens=2)
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "quotes_document"
    gateway.store.remember_answer(gateway.engine_url, quote)
    assert gateway.ask("And what does she earn?", history=history, max_tokens=2).status_code == 200


@pytest.mark.parametrize("policy, status, warned", [("refuse", 400, False), ("warn", 200, True), ("allow", 200, False)])
def test_a_question_that_repeats_a_document_is_treated_as_the_policy_says(stage, policy, status, warned):
    gateway = stage(Options(quotes=policy))
    gateway.add()
    answer = gateway.ask(f"Is this true: {DOCUMENTS['companies.txt']}", max_tokens=2)
    assert answer.status_code == status
    if status == 200:
        assert bool(answer.json()["distilledprag"]["warnings"]) is warned
    else:
        assert "Velkor" not in answer.text and not gateway.engine.prompts()


@pytest.mark.parametrize("body, message", [
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "assistant", "content": "Hi"}]}, "last message"),
    ({"messages": [{"role": "user", "content": " "}]}, "question is empty"),
    ({"messages": [{"role": "tool", "content": "x"}, {"role": "user", "content": "x"}]}, "role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only text"),
    ({"messages": [{"role": "user", "content": "x"}], "n": 9}, "n:"),
    ({"messages": [{"role": "user", "content": "x"}], "stop": ["a"] * 5}, "stop"),
    ({"messages": [{"role": "user", "content": "x"}], "logit_bias": {"5": 1}}, "'logit_bias'"),
    ({"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, "'tools'"),
    ({"messages": [{"role": "user", "content": "x"}], "tool_choice": "required"}, "'tool_choice'"),
    ({"messages": [{"role": "user", "content": "x"}], "seed": 2**70}, "seed"),
    ({"messages": [{"role": "user", "content": "x"}], "temperature": 9}, "temperature"),
    ({"messages": [{"role": "user", "content": "x"}], "distilledprag": {"mod": "rag"}}, "mod"),
    ({"messages": [{"role": "user", "content": "x " * 5000}]}, "more than the"),
    ({"messages": [{"role": "user", "content": "half \ud800"}]}, ""),
])  # fmt: skip
def test_a_request_that_cannot_be_served_is_a_clear_400_in_openais_shape(stage, body, message):
    gateway = stage()
    content = json.dumps({"model": "distilledprag", **body})
    response = gateway.client.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert message in error["message"] and {"type", "code", "param"} <= error.keys()
    assert not gateway.engine.prompts()


def test_a_stream_that_breaks_off_ends_with_an_error_and_without_done(stage):
    gateway = stage()
    gateway.add()
    gateway.engine.break_stream = True
    events = gateway.events(QUESTION, max_tokens=8)
    assert events[-1]["error"]["code"] == "engine" and "[DONE]" not in events


def test_a_busy_engine_is_passed_on_with_its_waiting_time(stage):
    gateway = stage()
    gateway.add()
    gateway.engine.refuse_with = (429, {"retry-after": "7"})
    response = gateway.ask(QUESTION, max_tokens=2)
    assert response.status_code == 429 and response.headers["retry-after"] == "7"
    gateway.engine.refuse_with = (500, {})
    assert gateway.ask(QUESTION, max_tokens=2).status_code == 502


def test_a_wrong_key_for_the_engine_names_the_variable(stage):
    gateway = stage(engine_key="wrong")
    gateway.add()
    response = gateway.ask(QUESTION, max_tokens=2)
    assert response.status_code == 502 and "DPRAG_ENGINE_API_KEY" in response.json()["error"]["message"]


def test_documents_and_questions_are_never_logged(stage, caplog):
    caplog.set_level(0)
    gateway = stage()
    gateway.add()
    gateway.ask(QUESTION, max_tokens=2)
    gateway.engine.break_stream = True
    gateway.events(QUESTION, max_tokens=2)
    assert not any(word in caplog.text for word in ("Tovberg", "Oakport", "Velkor"))
