"""Requests made from a server's own OpenAPI description, right ones and wrong ones."""

from __future__ import annotations

import contextlib

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable


def fuzz(description: dict, url: str, key: str, examples: int) -> int:
    """Send `examples` right and wrong requests each to every operation, fewer where there are no more; returns how many.

    Fails on a 5xx and on an error that is not JSON.
    """
    import schemathesis  # slow, and every worker collects the tests that need it

    schema = schemathesis.openapi.from_dict(description)
    schema.config.base_url = url
    sent = 0
    for operation in schema.get_all_operations():
        cases = operation.ok().as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
        wrong = operation.ok().as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
        for strategy in (cases, wrong):

            @settings(max_examples=examples, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
            @given(strategy)
            def ask(case):
                nonlocal sent
                sent += 1
                response = case.call(headers={"authorization": f"Bearer {key}"}, timeout=60)
                assert response.status_code < 500, (case.method, case.path, case.body, response.text)
                if response.status_code >= 400:
                    assert response.json()["error"]["message"], response.text

            with contextlib.suppress(Unsatisfiable):  # what takes no input cannot be asked wrongly
                ask()
    return sent
