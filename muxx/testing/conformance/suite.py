"""The suite as a class of tests."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from ..stage import name_of
from ..waiting import completed
from . import answer_rules, conduct_rules, hook_rules, row_rules, sharing_rules
from .cases import matrix
from .evidence import Evidence, Subject
from .examining import examine
from .invariants import Invariant

MOST_SHOWN = 12


class Conformance:
    """Derive from it, name the class `Test…`, and set `plugin`. The rest has defaults.

    The matrix runs once for the class; then each test looks at what was seen of it.
    """

    plugin: ClassVar[type]
    """The class, as the entry point names it."""
    name: ClassVar[str] = ""
    """Its name in the group `muxx`; without one, its class's in small letters."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """`[plugins.NAME]`."""
    config: ClassVar[Mapping[str, Any]] = {}
    """Laid over the gateway's configuration. With `{"project": {"cache": {"enabled": False}}}` the cases with a cache are left
    out: for a plugin after which no two requests are the same."""
    headers: ClassVar[Mapping[str, str]] = {}
    """Sent with every request, for a plugin that asks for some."""
    text: ClassVar[str] = Subject.text
    """What the provider says: something the plugin has to do with."""
    changes_answers: ClassVar[bool] = False
    """The plugin may change what answers say. Without it they have to leave byte for byte."""
    changes_requests: ClassVar[bool] = False
    """The plugin may change what is sent to the provider."""
    ways: ClassVar[Collection[tuple[str, str]]] = ()
    """Endpoints to go through, each with that of a provider whose format it is translated into, or `""`, as in `("messages",
    "chat")`; all of them where it is empty, which takes several times as long as two."""

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls) -> Subject:
        """The plugin that is tested, for as long as it is.

        Override it where something is known only when the tests run, or has to run beside them, such as a service that the
        plugin asks: `with aside(Service()) as service: yield self.described(settings={"url": service.url})`.
        """
        return cls.described()

    @pytest.fixture(scope="class")
    @classmethod
    def evidence(cls, subject: Subject) -> Evidence:
        """What was seen of the matrix."""
        return completed(examine(subject, [case for case in matrix(subject.hooks) if not cls.ways or case.way in cls.ways]))

    @classmethod
    def described(cls, **known: Any) -> Subject:
        """The plugin as the class's attributes describe it, but for what is `known` of `Subject`'s fields only now."""
        described = Subject(
            cls.plugin,
            cls.name or name_of(cls.plugin),
            cls.settings,
            cls.config,
            cls.headers,
            changes_answers=cls.changes_answers,
            changes_requests=cls.changes_requests,
            text=cls.text,
        )
        return replace(described, **known)

    def test_every_case_ends_as_it_should(self, evidence: Evidence) -> None:
        _hold(hook_rules.every_case_ends_as_it_should, evidence)

    def test_authenticate_runs_once_per_request(self, evidence: Evidence) -> None:
        _hold(hook_rules.authenticate_runs_once_per_request, evidence)

    def test_pre_request_runs_once_for_an_accepted_request(self, evidence: Evidence) -> None:
        _hold(hook_rules.pre_request_runs_once_for_an_accepted_request, evidence)

    def test_pre_attempt_runs_once_per_upstream_call_and_never_on_a_hit(self, evidence: Evidence) -> None:
        _hold(hook_rules.pre_attempt_runs_once_per_upstream_call_and_never_on_a_hit, evidence)

    def test_post_response_runs_exactly_once_per_exchange(self, evidence: Evidence) -> None:
        _hold(hook_rules.post_response_runs_exactly_once_per_exchange, evidence)

    def test_post_response_is_the_last_hook_of_its_exchange(self, evidence: Evidence) -> None:
        _hold(hook_rules.post_response_is_the_last_hook_of_its_exchange, evidence)

    def test_every_plugin_of_a_chain_has_its_turn(self, evidence: Evidence) -> None:
        _hold(hook_rules.every_plugin_of_a_chain_has_its_turn, evidence)

    def test_the_end_is_the_last_chunk_and_comes_exactly_once(self, evidence: Evidence) -> None:
        _hold(hook_rules.the_end_is_the_last_chunk_and_comes_exactly_once, evidence)

    def test_every_chunk_goes_through_every_plugin(self, evidence: Evidence) -> None:
        _hold(hook_rules.every_chunk_goes_through_every_plugin, evidence)

    def test_an_answer_parses_in_its_format_and_ends_properly(self, evidence: Evidence) -> None:
        _hold(answer_rules.an_answer_parses_in_its_format_and_ends_properly, evidence)

    def test_an_answer_the_plugin_does_not_change_stays_byte_identical(self, evidence: Evidence) -> None:
        _hold(answer_rules.an_answer_the_plugin_does_not_change_stays_byte_identical, evidence)

    def test_the_answer_says_the_same_in_every_form(self, evidence: Evidence) -> None:
        _hold(answer_rules.the_answer_says_the_same_in_every_form, evidence)

    def test_a_request_the_plugin_does_not_change_is_sent_as_it_came(self, evidence: Evidence) -> None:
        _hold(answer_rules.a_request_the_plugin_does_not_change_is_sent_as_it_came, evidence)

    def test_every_exchange_has_exactly_one_row_with_all_its_fields(self, evidence: Evidence) -> None:
        _hold(row_rules.every_exchange_has_exactly_one_row_with_all_its_fields, evidence)

    def test_the_row_keeps_the_answer_as_it_was_delivered(self, evidence: Evidence) -> None:
        _hold(row_rules.the_row_keeps_the_answer_as_it_was_delivered, evidence)

    def test_record_gets_every_row_at_least_once(self, evidence: Evidence) -> None:
        _hold(row_rules.record_gets_every_row_at_least_once, evidence)

    def test_a_row_that_comes_again_changes_nothing(self, evidence: Evidence) -> None:
        _hold(row_rules.a_row_that_comes_again_changes_nothing, evidence)

    def test_an_answer_says_whether_it_came_from_the_cache(self, evidence: Evidence) -> None:
        _hold(sharing_rules.an_answer_says_whether_it_came_from_the_cache, evidence)

    def test_who_began_a_shared_call_pays_for_all_of_it(self, evidence: Evidence) -> None:
        _hold(sharing_rules.who_began_a_shared_call_pays_for_all_of_it, evidence)

    def test_post_response_comes_after_the_bill(self, evidence: Evidence) -> None:
        _hold(sharing_rules.post_response_comes_after_the_bill, evidence)

    def test_no_credential_is_visible_after_authenticate(self, evidence: Evidence) -> None:
        _hold(conduct_rules.no_credential_is_visible_after_authenticate, evidence)

    def test_a_crash_names_the_plugin_in_the_log_and_tells_nobody_its_text(self, evidence: Evidence) -> None:
        _hold(conduct_rules.a_crash_names_the_plugin_in_the_log_and_tells_nobody_its_text, evidence)

    def test_the_plugin_does_not_crash_by_itself(self, evidence: Evidence) -> None:
        _hold(conduct_rules.the_plugin_does_not_crash_by_itself, evidence)

    def test_the_plugin_holds_up_nobody(self, evidence: Evidence) -> None:
        _hold(conduct_rules.the_plugin_holds_up_nobody, evidence)

    def test_nothing_is_left_behind(self, evidence: Evidence) -> None:
        _hold(conduct_rules.nothing_is_left_behind, evidence)

    def test_two_gateways_of_it_share_no_state(self, evidence: Evidence) -> None:
        _hold(conduct_rules.two_gateways_of_it_share_no_state, evidence)


def _hold(invariant: Invariant, evidence: Evidence) -> None:
    places = list(invariant(evidence))
    if places:
        shown = "\n".join(f"  {place}" for place in places[:MOST_SHOWN])
        more = f"\n  and {len(places) - MOST_SHOWN} more" if len(places) > MOST_SHOWN else ""
        pytest.fail(f"{evidence.subject.name}: {invariant.__name__.replace('_', ' ')}: broken {len(places)} times\n{shown}{more}")
