"""Asks a running gateway what its OpenAPI document allows, and what it forbids, and holds every answer to the document."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

import requests
import schemathesis
from http_kit import add_key
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from muxx.testing import RunningGateway

MODES = {"allowed": schemathesis.GenerationMode.POSITIVE, "forbidden": schemathesis.GenerationMode.NEGATIVE}
CONFORMS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
RNG_SEED = 20261129


class Things:
    """What there is to ask about: a gateway's keys of each role, and ids that exist."""

    def __init__(self, gateway: RunningGateway, document: dict[str, Any], keys: Mapping[str, str], ids: Mapping[str, str]) -> None:
        self.base_url = gateway.base_url
        self.document = document
        self.keys = keys
        self.ids = ids

    @classmethod
    async def of(cls, gateway: RunningGateway) -> Things:
        keys = {"nobody": "", "project": gateway.key, "admin": await add_key(gateway, "admin", None)}
        row = (await gateway.chat()).request_id or ""
        await gateway.get_row(row)
        project = await gateway.gateway.host.projects.named("default")
        spare = await gateway.gateway.host.projects.create("spare")
        key_id = (await gateway.gateway.db.read("SELECT id FROM keys WHERE project IS NOT NULL"))[0]["id"]
        await add_key(gateway, project="spare")
        spare_key = (await gateway.gateway.db.read("SELECT id FROM keys WHERE project = 'spare'"))[0]["id"]
        assert project.id != spare.id
        assert key_id != spare_key
        ids = {
            "/v1/projects/": spare.id, "/v1/keys/": spare_key, "/v1/logs/": row, "/v1/models/": "gpt-4o",
            "/v1beta/models/": "gpt-4o",
        }  # fmt: skip
        return cls(gateway, (await gateway.get("/v1/openapi.json")).json(), keys, ids)

    def own(self, path: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The path's parameters with ids that exist."""
        id = next((id for start, id in self.ids.items() if path.startswith(start)), None)
        if id is None:
            return dict(given)
        known = {"id": id, "request_id": id, "model": id, "provider": "openai"}
        return {name: known[name] for name in given}


def fuzz(things: Things, role: str, mode: str, examples: int, operations: Iterable[str] | None = None) -> int:
    """Ask every operation so often in this role; how many requests that came to. The first answer that does not conform is
    raised. Who asks is decided here, so the document's words about keys are left out."""
    document = {**things.document, "security": [], "components": {**things.document["components"], "securitySchemes": {}}}
    refusals = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": ["4xx"]}}})
    schema = schemathesis.openapi.from_dict(document, config=refusals)
    wanted = [found.ok() for found in schema.get_all_operations()]
    asked = 0
    with requests.Session() as session:
        for operation in wanted:
            if operations is None or operation.label in operations:
                asked += _ask(things, operation, session, role, mode, examples)
    return asked


def _ask(things: Things, operation: Any, session: requests.Session, role: str, mode: str, examples: int) -> int:
    has_input = operation.body or operation.query
    if mode == "forbidden" and not has_input:
        return 0
    headers = {"X-Muxx-Api-Key": things.keys[role]} if things.keys[role] else {}
    checks = [*CONFORMS, negative_data_rejection] if mode == "forbidden" and role == "admin" else CONFORMS
    exists = random.Random(RNG_SEED)
    count = 0

    @seed(RNG_SEED)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=MODES[mode]))
    def ask(case: Any) -> None:
        nonlocal count
        count += 1
        if case.path_parameters and exists.random() < 0.5:
            case.path_parameters = things.own(operation.path, case.path_parameters)
        case.call_and_validate(things.base_url, session=session, headers=headers, checks=checks, timeout=10)

    ask()
    return count
