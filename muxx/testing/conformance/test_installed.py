"""The suite for the installed plugin that `--muxx-plugin` names."""

from __future__ import annotations

import difflib

import orjson
import pytest

from muxx.discovery import discover

from . import Conformance, Subject


class TestInstalled(Conformance):
    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, request: pytest.FixtureRequest) -> Subject:
        name = request.config.getoption("muxx_plugin", None)
        if name is None:
            pytest.skip("name an installed plugin: --muxx-plugin NAME")
        classes = {found.name: found.cls for found in discover()}
        if name not in classes:
            near = difflib.get_close_matches(name, classes, 1)
            pytest.fail(f"no plugin named {name!r} is installed" + (f"; did you mean {near[0]!r}?" if near else ""))
        settings = orjson.loads(request.config.getoption("muxx_settings", "{}"))
        changes = request.config.getoption("muxx_changes", [])
        return Subject(
            classes[name],
            name,
            settings,
            changes_answers="answers" in changes,
            changes_requests="requests" in changes,
        )
