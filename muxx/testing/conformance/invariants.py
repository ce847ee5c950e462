"""What has to hold whatever becomes of an exchange: each a sentence, and a function from what was seen to where it was broken."""

from __future__ import annotations

from collections.abc import Callable

from . import answer_rules, conduct_rules, hook_rules, row_rules, sharing_rules
from .evidence import Broken, Evidence

Invariant = Callable[[Evidence], Broken]

INVARIANTS: tuple[Invariant, ...] = (
    hook_rules.every_case_ends_as_it_should,
    hook_rules.authenticate_runs_once_per_request,
    hook_rules.pre_request_runs_once_for_an_accepted_request,
    hook_rules.pre_attempt_runs_once_per_upstream_call_and_never_on_a_hit,
    hook_rules.post_response_runs_exactly_once_per_exchange,
    hook_rules.post_response_is_the_last_hook_of_its_exchange,
    hook_rules.every_plugin_of_a_chain_has_its_turn,
    hook_rules.the_end_is_the_last_chunk_and_comes_exactly_once,
    hook_rules.every_chunk_goes_through_every_plugin,
    answer_rules.an_answer_parses_in_its_format_and_ends_properly,
    answer_rules.an_answer_the_plugin_does_not_change_stays_byte_identical,
    answer_rules.the_answer_says_the_same_in_every_form,
    answer_rules.a_request_the_plugin_does_not_change_is_sent_as_it_came,
    row_rules.every_exchange_has_exactly_one_row_with_all_its_fields,
    row_rules.the_row_keeps_the_answer_as_it_was_delivered,
    row_rules.record_gets_every_row_at_least_once,
    row_rules.a_row_that_comes_again_changes_nothing,
    sharing_rules.an_answer_says_whether_it_came_from_the_cache,
    sharing_rules.who_began_a_shared_call_pays_for_all_of_it,
    sharing_rules.post_response_comes_after_the_bill,
    conduct_rules.no_credential_is_visible_after_authenticate,
    conduct_rules.a_crash_names_the_plugin_in_the_log_and_tells_nobody_its_text,
    conduct_rules.the_plugin_does_not_crash_by_itself,
    conduct_rules.the_plugin_holds_up_nobody,
    conduct_rules.nothing_is_left_behind,
    conduct_rules.two_gateways_of_it_share_no_state,
)


def broken(evidence: Evidence) -> dict[str, list[str]]:
    """The invariants that do not hold, by name, and where each was broken."""
    found = {invariant.__name__: list(invariant(evidence)) for invariant in INVARIANTS}
    return {name: places for name, places in found.items() if places}
