"""The official Python client's own example calls, against both servers over real sockets."""

from __future__ import annotations

import json

import openai
import pytest
from clients_stage import MOST
from pydantic import BaseModel

from distilledprag.http.answers import named_token

QUESTION = "Where does Anna Tovberg live?"
ASKED = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.url, api_key=server.key, max_retries=0)


class Place(BaseModel):
    coast: bool
    letter: str | None


SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["town", "village"]}, "coast": {"type": "boolean"}},
    "required": ["kind", "coast"],
    "additionalProperties": False,
}


def test_models_are_listed_and_retrieved_one_by_one(client, server):
    listed = [model.id for model in client.models.list()]
    assert listed[0] == server.model
    assert [client.models.retrieve(name).id for name in listed] == listed
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-unheard-of")
    assert caught.value.code == "model_not_found"


def test_a_conversation_goes_on_with_the_message_that_came_back(client, server):
    first = client.chat.completions.create(model=server.model, messages=ASKED, max_tokens=8, temperature=0)
    answer = first.choices[0].message
    for said in (answer, answer.model_dump(), {"role": "assistant", "content": None}):
        again = client.chat.completions.create(
            model=server.model, messages=[*ASKED, said, {"role": "user", "content": "And who else?"}], max_tokens=4
        )
        assert again.choices[0].finish_reason in ("stop", "length")


def test_a_stop_text_ends_the_answer_before_it(client, server):
    ask = {"model": server.model, "messages": ASKED, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**ask).choices[0].message.content
    stop = whole[4:6]
    stopped = client.chat.completions.create(**ask, stop=stop).choices[0]
    assert stopped.message.content == whole.partition(stop)[0].rstrip() and stopped.finish_reason == "stop"
    streamed = client.chat.completions.create(**ask, stop=[stop, "never said"], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == stopped.message.content


def test_several_choices_each_have_their_own_text_streamed_and_whole(client, server):
    ask = {"model": server.model, "messages": ASKED, "max_tokens": 12, "temperature": 1.5, "n": 3, "seed": 1}
    whole = client.chat.completions.create(**ask)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2] and len(set(texts)) > 1
    streamed, finished = [""] * 3, []
    for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            finished += [choice.index] if choice.finish_reason else []
    assert streamed == texts and sorted(finished) == [0, 1, 2] and chunk.usage == whole.usage


def test_probabilities_are_those_of_the_tokens_written(client, server):
    ask = {"model": server.model, "messages": ASKED, "max_tokens": 6, "temperature": 0, "logprobs": True, "top_logprobs": 3}
    choice = client.chat.completions.create(**ask).choices[0]
    told = choice.logprobs.content
    assert "".join(token.token for token in told).strip() == choice.message.content
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in told)
    assert all(token.top_logprobs[0].token == token.token for token in told)  # greedy
    chunks = list(client.chat.completions.create(**ask, stream=True))
    streamed = [token for chunk in chunks for choice in chunk.choices if choice.logprobs for token in choice.logprobs.content]
    assert [token.token for token in streamed] == [token.token for token in told]


def test_a_schema_is_kept_to_whatever_the_model_would_have_said(client, server):
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": SCHEMA}}
    ask = {"model": server.model, "messages": ASKED, "max_tokens": 40, "temperature": 1.0, "response_format": wanted}
    for seed in range(2):
        said = json.loads(client.chat.completions.create(**ask, seed=seed).choices[0].message.content)
        assert said["kind"] in ("town", "village") and type(said["coast"]) is bool and len(said) == 2
    streamed = client.chat.completions.create(**ask, stream=True)
    assert set(json.loads("".join(chunk.choices[0].delta.content or "" for chunk in streamed))) == {"kind", "coast"}


def test_any_json_object_begins_as_one(client, server):
    wanted = {"type": "json_object"}
    ask = {"model": server.model, "messages": ASKED, "max_tokens": 12, "temperature": 0, "response_format": wanted}
    assert client.chat.completions.create(**ask).choices[0].message.content.startswith("{")


def test_the_clients_own_parsing_of_a_class_works(client, server):
    """A random model may write a string without an end; the schema's first field is the one that must come."""
    try:
        made = client.chat.completions.parse(model=server.model, messages=ASKED, max_tokens=MOST, response_format=Place, seed=3)
        assert type(made.choices[0].message.parsed.coast) is bool
    except openai.LengthFinishReasonError as cut:
        assert '"coast": ' in cut.completion.choices[0].message.content


@pytest.mark.parametrize("fields, param", [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}}, "response_format"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"n": 100}, "n"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"frequency_penalty": 1}, "frequency_penalty"),
])  # fmt: skip
def test_what_is_not_served_is_a_400_that_names_the_field(client, server, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=server.model, messages=ASKED, max_tokens=4, **fields)
    assert caught.value.param.startswith(param)


def test_a_response_is_the_chats_answer(client, server):
    ask = {"max_tokens": 12, "temperature": 0}
    messages = [{"role": "system", "content": "Be brief."}, *ASKED]
    chat = client.chat.completions.create(model=server.model, messages=messages, **ask)
    made = client.responses.create(
        model=server.model, instructions="Be brief.", input=QUESTION, max_output_tokens=12, temperature=0, store=False
    )
    assert made.output_text == chat.choices[0].message.content != ""
    assert made.status == {"length": "incomplete", "stop": "completed"}[chat.choices[0].finish_reason]
    assert made.usage.input_tokens == chat.usage.prompt_tokens and made.usage.output_tokens == chat.usage.completion_tokens
    parts = [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}]
    assert client.responses.create(model=server.model, instructions="Be brief.", input=parts, max_output_tokens=12,
                                   temperature=0).output_text == made.output_text  # fmt: skip


def test_a_response_goes_on_with_the_output_that_came_back(client, server):
    first = client.responses.create(model=server.model, input=QUESTION, max_output_tokens=8, temperature=0)
    sent = [{"role": "user", "content": QUESTION}, *first.output, {"role": "user", "content": "And who else?"}]
    assert client.responses.create(model=server.model, input=sent, max_output_tokens=4).object == "response"


def test_a_streamed_response_has_openais_events_in_order(client, server):
    ask = {"model": server.model, "input": QUESTION, "max_output_tokens": 8, "temperature": 0}
    whole = client.responses.create(**ask)
    events = list(client.responses.create(**ask, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    assert kinds[-1] == f"response.{whole.status}" and kinds[-2] == "response.output_item.done"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text == events[-1].response.output_text
    with client.responses.stream(**ask) as stream:
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == whole.output_text


def test_a_response_keeps_to_a_schema_and_tells_probabilities(client, server):
    wanted = {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}}
    made = client.responses.create(
        model=server.model, input=QUESTION, max_output_tokens=40, text=wanted, top_logprobs=2,
        include=["message.output_text.logprobs"],
    )  # fmt: skip
    assert set(json.loads(made.output_text)) == {"kind", "coast"}
    assert all(len(token.top_logprobs) == 2 for token in made.output[0].content[0].logprobs)


@pytest.mark.parametrize("fields, param", [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"background": True}, "background"),
    ({"tools": [{"type": "web_search"}]}, "tools"),
    ({"reasoning": {"effort": "high"}}, "reasoning"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input.0"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "odd"}}}}, "text.format"),
])  # fmt: skip
def test_what_a_response_does_not_serve_is_a_400_that_names_the_field(client, server, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": server.model, "input": QUESTION, "max_output_tokens": 4, **fields})
    assert caught.value.param == param


def test_the_engine_refuses_too_long_an_answer_and_the_gateway_asks_for_a_shorter_one(stage):
    engine = openai.OpenAI(base_url=stage.engine.url, api_key=stage.engine.key, max_retries=0)
    with pytest.raises(openai.BadRequestError) as caught:
        engine.chat.completions.create(model=stage.engine.model, messages=ASKED, max_tokens=MOST + 1)
    assert caught.value.param == "max_tokens" and caught.value.code == "max_tokens_too_large"
    gateway = openai.OpenAI(base_url=stage.gateway.url, api_key=stage.gateway.key, max_retries=0)
    for asked in (MOST + 1, 10**6):
        made = gateway.chat.completions.create(model="gpt-4o", messages=ASKED, max_tokens=asked)
        assert f"lowered from {asked} to {MOST}" in made.distilledprag["warnings"][0]
        assert made.usage.completion_tokens <= MOST
    quiet = gateway.chat.completions.create(model="gpt-4o", messages=ASKED)  # named none: nothing to say
    assert not quiet.distilledprag["warnings"]


def test_the_engine_says_what_it_can_do_in_its_list_of_models(stage):
    engine = openai.OpenAI(base_url=stage.engine.url, api_key=stage.engine.key, max_retries=0)
    model = engine.models.retrieve("base")
    assert model.max_answer_tokens == MOST and model.max_model_len == stage.prag.base.context_length >= model.max_rows


def test_text_completions_tell_probabilities_as_they_always_did(stage):
    engine = openai.OpenAI(base_url=stage.engine.url, api_key=stage.engine.key, max_retries=0)
    choice = engine.completions.create(model="base", prompt=QUESTION, max_tokens=5, temperature=0, logprobs=2).choices[0]
    told = choice.logprobs
    assert "".join(named_token(name, 0.0).token for name in told.tokens) == choice.text
    assert told.text_offset[:2] == [0, len(named_token(told.tokens[0], 0.0).token)]
    assert all(len(top) == 2 for top in told.top_logprobs)
