"""Real processes and sockets: what goes from the gateway to the engine while people ask, question by question."""

from __future__ import annotations

import pytest
from audit_report import measured
from prepared import prepared


@pytest.mark.parametrize("count", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_no_run_of_document_tokens_and_no_rare_word_leaves(count, tmp_path):
    result = measured(count, tmp_path, prepared(tmp_path))
    assert result["config"] == {"documents": count, "questions": 2 * count, "seed": count, "top_k": 3}
    assert result["controls"]["planted"] > 70 and result["controls"]["missed"] == []
    assert result["answered_from_documents"] == 2 * count and result["uploads"] >= count / 2
    assert result["findings"] == []
