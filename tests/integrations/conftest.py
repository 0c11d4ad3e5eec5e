"""A gateway and an engine as processes, with one document."""

import httpx2
import pytest
from processes import engine, gateway


@pytest.fixture(scope="session")
def gateway_url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("integrations")
    with engine(folder, None) as (_, engine_url), gateway(folder, engine_url, None) as (_, url):
        document = {"name": "staff.txt", "text": "Ingrid Lindovic works for Velkor Freight. Ingrid Lindovic lives in Dunmouth."}
        assert httpx2.post(f"{url}/v1/documents", json=document).status_code == 200
        yield url
