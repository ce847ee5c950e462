"""The conformance suite fails when the kernel breaks an invariant, and says which: one broken kernel for each."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from broken_kernels import CHAT, Break, Breaks, Patch, Watching, ask_before_an_attempt
from test_conformance_sharing import BREAKS as SHARED
from thoroughness import some

import muxx.answering as answering
import muxx.attempts as attempts
import muxx.chains as chains
import muxx.noting as noting
import muxx.pipeline as pipeline
import muxx.request as request_module
from muxx import Chunk, Exchange, Gateway, MuxxError
from muxx.answer import Answer
from muxx.chains import run_chunk, run_isolated
from muxx.journal import Journal
from muxx.lean import LeanResponse
from muxx.recorder import Recorder
from muxx.strangers import Strangers
from muxx.testing.conformance import Subject, broken, examine, matrix

BREAKS = breaks = Breaks()


# ── how often hooks run ──


@breaks("post_response_runs_exactly_once_per_exchange")
def post_response_twice(patch: pytest.MonkeyPatch) -> None:
    after = Gateway.after
    patch.setattr(Gateway, "after", lambda self, exchange: (after(self, exchange), after(self, exchange)))


@breaks("post_response_runs_exactly_once_per_exchange")
def post_response_never(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Gateway, "after", lambda self, exchange: None)


@breaks("post_response_runs_exactly_once_per_exchange", "refuses in pre_attempt")
def no_post_response_after_a_refusal(patch: pytest.MonkeyPatch) -> None:
    after = Gateway.after
    patch.setattr(Gateway, "after", lambda self, exchange: exchange.error or after(self, exchange))


@breaks("post_response_runs_exactly_once_per_exchange", "the client leaves in the middle")
def no_post_response_after_a_client_has_left(patch: pytest.MonkeyPatch) -> None:
    after = Gateway.after
    gone = lambda exchange: exchange.error is not None and exchange.error.status == 499  # noqa: E731
    patch.setattr(Gateway, "after", lambda self, exchange: gone(exchange) or after(self, exchange))


@breaks("post_response_runs_exactly_once_per_exchange", "crashes in post_response")
def a_crash_in_post_response_stops_the_others(patch: pytest.MonkeyPatch) -> None:
    async def run(chain: Any, args: Any, seconds: float) -> None:
        await chains.run_all(chain, args, seconds)

    patch.setattr("muxx.gateway.run_isolated", run)


@breaks("post_response_is_the_last_hook_of_its_exchange")
def post_response_before_the_answer(patch: pytest.MonkeyPatch) -> None:
    attempt_targets, after = pipeline.attempt_targets, Gateway.after

    async def early(call: Any) -> None:
        await run_isolated(call.gateway.chains.post_response, (call.gateway, call.exchange), 1.0)
        await attempt_targets(call)

    patch.setattr(pipeline, "attempt_targets", early)
    patch.setattr(Gateway, "after", lambda self, exchange: exchange.attempts or after(self, exchange))


@breaks("authenticate_runs_once_per_request")
def authenticate_twice(patch: pytest.MonkeyPatch) -> None:
    authenticate = pipeline.authenticate

    async def twice(gateway: Any, head: Any) -> Any:
        await authenticate(gateway, head)
        return await authenticate(gateway, head)

    patch.setattr(pipeline, "authenticate", twice)


@breaks("pre_request_runs_once_for_an_accepted_request")
def pre_request_twice(patch: pytest.MonkeyPatch) -> None:
    ask = pipeline.ask

    async def twice(call: Any) -> Any:
        return await ask(call) or await ask(call)

    patch.setattr(pipeline, "ask", twice)


@breaks("pre_attempt_runs_once_per_upstream_call_and_never_on_a_hit")
def pre_attempt_on_a_hit(patch: pytest.MonkeyPatch) -> None:
    give_again = pipeline.give_again

    async def asked_first(call: Any, answer: Any) -> None:
        await ask_before_an_attempt(call)
        await give_again(call, answer)

    patch.setattr(pipeline, "give_again", asked_first)


@breaks("pre_attempt_runs_once_per_upstream_call_and_never_on_a_hit", "another target answers")
def pre_attempt_only_at_the_first_target(patch: pytest.MonkeyPatch) -> None:
    attempt_once = attempts._attempt

    async def first_only(call: Any, attempt: Any) -> None:
        kept = call.gateway.chains.pre_attempt
        try:
            call.gateway.chains.pre_attempt = kept if attempt.number == 1 else ()
            await attempt_once(call, attempt)
        finally:
            call.gateway.chains.pre_attempt = kept

    patch.setattr(attempts, "_attempt", first_only)


@breaks("every_plugin_of_a_chain_has_its_turn")
def a_hook_is_skipped(patch: pytest.MonkeyPatch) -> None:
    first_result = chains.first_result

    async def skipping(chain: Any, *rest: Any) -> Any:
        return await first_result([step for step in chain if step.plugin != "watching"], *rest)

    patch.setattr(pipeline, "first_result", skipping)


@breaks("every_plugin_of_a_chain_has_its_turn")
def a_chain_runs_backwards(patch: pytest.MonkeyPatch) -> None:
    run_all = chains.run_all

    async def backwards(chain: Any, *rest: Any) -> None:
        await run_all(chain[::-1], *rest)

    patch.setattr(attempts, "run_all", backwards)


# ── chunks ──


@breaks("the_end_is_the_last_chunk_and_comes_exactly_once")
def chunks_after_the_end(patch: pytest.MonkeyPatch) -> None:
    async def more(chain: Any, args: Any, chunk: Chunk, most_bytes: int) -> list[Chunk]:
        result = await run_chunk(chain, args, chunk, most_bytes)
        if chunk.kind == "end":
            await run_chunk(chain, args, Chunk("text", "P.S."), most_bytes)
        return result

    patch.setattr(answering, "run_chunk", more)


@breaks("the_end_is_the_last_chunk_and_comes_exactly_once")
def hooks_never_see_the_end(patch: pytest.MonkeyPatch) -> None:
    async def endless(chain: Any, args: Any, chunk: Chunk, most_bytes: int) -> list[Chunk]:
        return [chunk] if chunk.kind == "end" else await run_chunk(chain, args, chunk, most_bytes)

    patch.setattr(answering, "run_chunk", endless)


@breaks("every_chunk_goes_through_every_plugin")
def a_plugin_misses_a_chunk(patch: pytest.MonkeyPatch) -> None:
    async def missing(chain: Any, args: Any, chunk: Chunk, most_bytes: int) -> list[Chunk]:
        return await run_chunk(chain[:-1] if chunk.kind == "text" else chain, args, chunk, most_bytes)

    patch.setattr(answering, "run_chunk", missing)


# ── answers ──


@breaks("an_answer_the_plugin_does_not_change_stays_byte_identical")
def bytes_are_written_anew(patch: pytest.MonkeyPatch) -> None:
    send = Answer.send
    patch.setattr(Answer, "send", lambda self, data: send(self, data.replace(b'"created":1', b'"created": 1')))


@breaks("the_answer_says_the_same_in_every_form")
def a_word_is_lost_in_streams(patch: pytest.MonkeyPatch) -> None:
    send = Answer.send
    patch.setattr(Answer, "send", lambda self, data: send(self, data.replace("Grüß".encode(), b"")))


@breaks("an_answer_parses_in_its_format_and_ends_properly", "the provider")
def a_broken_stream_looks_like_success(patch: pytest.MonkeyPatch) -> None:
    break_off = Answer.break_off
    patch.setattr(Answer, "break_off", lambda self, data: break_off(self, data + b"data: [DONE]\n\n"))


@breaks("an_answer_parses_in_its_format_and_ends_properly", "the provider ends early")
def a_broken_stream_says_nothing(patch: pytest.MonkeyPatch) -> None:
    break_off = Answer.break_off
    patch.setattr(Answer, "break_off", lambda self, data: break_off(self, b""))


@breaks("a_request_the_plugin_does_not_change_is_sent_as_it_came")
def a_member_is_added_to_the_request(patch: pytest.MonkeyPatch) -> None:
    new_attempt = attempts._new_attempt

    def adding(*args: Any) -> Any:
        attempt = new_attempt(*args)
        attempt.body["seed"] = 7
        return attempt

    patch.setattr(attempts, "_new_attempt", adding)


@breaks("every_case_ends_as_it_should", "refuses in authenticate")
def nobody_is_refused(patch: pytest.MonkeyPatch) -> None:
    first_result = chains.first_result

    async def lenient(chain: Any, *rest: Any) -> Any:
        for step in chain:
            try:
                if (found := await first_result((step,), *rest)) is not None:
                    return found
            except MuxxError:
                continue
        return None

    patch.setattr(pipeline, "first_result", lenient)


# ── rows ──


@breaks("every_exchange_has_exactly_one_row_with_all_its_fields")
def a_row_is_lost(patch: pytest.MonkeyPatch) -> None:
    final, number = Journal.final, itertools.count()

    def forgetful(self: Journal, *args: Any, **options: Any) -> None:
        if next(number) != 3:
            final(self, *args, **options)

    patch.setattr(Journal, "final", forgetful)


@breaks("every_exchange_has_exactly_one_row_with_all_its_fields", "no key")
def requests_without_a_key_have_no_row(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Strangers, "keeps_row", lambda self: False)


def with_row(change: Callable[[dict[str, Any], Exchange], Mapping[str, Any]]) -> Patch:
    """A kernel whose rows are changed so."""

    def break_it(patch: pytest.MonkeyPatch) -> None:
        record_of = noting.record_of

        def changed(exchange: Exchange, status: int) -> dict[str, Any]:
            row = record_of(exchange, status)
            return {**row, **change(row, exchange)}

        patch.setattr(noting, "record_of", changed)

    return break_it


ROWS: dict[str, tuple[str, Callable[[dict[str, Any], Exchange], Mapping[str, Any]]]] = {
    "a wrong status": ("answered", lambda row, exchange: {"status": 500}),
    "the wrong endpoint": ("answered", lambda row, exchange: {"endpoint": "responses"}),
    "no attempts": ("answered", lambda row, exchange: {"attempts": 0}),
    "a hit called a miss": ("answered", lambda row, exchange: {"cache": "miss"}),
    "nothing used": ("answered", lambda row, exchange: {"usage_source": "none"}),
    "a hit that cost something": ("answered", lambda row, exchange: {"cost_pico": 1, "output_cost_pico": 1, "input_cost_pico": 0}),
    "costs that do not add up": ("answered", lambda row, exchange: {"cost_pico": 1, "output_cost_pico": 1, "input_cost_pico": 1}),
    "a fraction of a token": ("answered", lambda row, exchange: {"input_tokens": 1.5}),
    "the answer called broken": ("answered", lambda row, exchange: {"ended_by": "upstream", "phase": "stream"}),
    "the client's leaving blamed on the provider": (
        "the client leaves in the middle",
        lambda row, exchange: {"ended_by": "upstream"},
    ),
    "an error without a name": ("the provider refuses with 400", lambda row, exchange: {"error_code": None}),
    "an error nobody made": ("the provider refuses with 400", lambda row, exchange: {"ended_by": None, "phase": None}),
}

for what, (ending, change) in ROWS.items():
    BREAKS[f"a row says {what}"] = Break("every_exchange_has_exactly_one_row_with_all_its_fields", (ending,), with_row(change))


@breaks("the_row_keeps_the_answer_as_it_was_delivered")
def the_row_keeps_another_answer(patch: pytest.MonkeyPatch) -> None:
    note = answering.note

    def other(call: Any, status: int) -> None:
        call.delivered = call.delivered.replace("Grüß".encode(), b"")
        note(call, status)

    patch.setattr(answering, "note", other)


@breaks("record_gets_every_row_at_least_once")
def the_recorder_leaves_a_plugin_out(patch: pytest.MonkeyPatch) -> None:
    call = Recorder._call

    async def leaving_out(self: Recorder, step: Any, *rest: Any) -> None:
        if step.plugin != "watching":
            await call(self, step, *rest)

    patch.setattr(Recorder, "_call", leaving_out)


# ── secrets, crashes, leftovers ──


@breaks("no_credential_is_visible_after_authenticate")
def plugins_see_the_credentials(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(request_module, "CREDENTIAL_HEADERS", frozenset())


@breaks("no_credential_is_visible_after_authenticate")
def the_clients_headers_are_sent_up(patch: pytest.MonkeyPatch) -> None:
    upstream_headers = attempts.upstream_headers

    def all_of_them(provider: Any, head: Any, *rest: Any) -> dict[str, str]:
        return {**upstream_headers(provider, head, *rest), "cookie": head.headers.get("Cookie", "")}

    patch.setattr(attempts, "upstream_headers", all_of_them)


CRASH = "a_crash_names_the_plugin_in_the_log_and_tells_nobody_its_text"


@breaks(CRASH, "crashes in pre_request")
def a_crash_is_told_to_the_client(patch: pytest.MonkeyPatch) -> None:
    def crashed(step: Any, what: str, error: BaseException | None = None) -> None:
        chains.log.error("plugin %s failed in a hook: %s", step.plugin, what)
        raise MuxxError(str(error), code="plugin_error")

    patch.setattr(chains, "crashed", crashed)


@breaks(CRASH, "crashes in on_chunk")
def a_crash_is_logged_with_its_text(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(chains, "describe_crash", repr)


@breaks(CRASH, "crashes in pre_attempt")
def a_crash_is_not_laid_at_anybodys_door(patch: pytest.MonkeyPatch) -> None:
    def crashed(step: Any, what: str, error: BaseException | None = None) -> None:
        chains.log.error("some plugin failed: %s", what)
        raise chains.PluginError() from error

    patch.setattr(chains, "crashed", crashed)


@breaks(CRASH, "crashes in record")
def a_crash_in_record_is_not_laid_at_anybodys_door(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recorder, "_failed", lambda self, error: None)


@breaks("nothing_is_left_behind", "the client leaves in the middle")
def the_providers_connection_stays_open(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LeanResponse, "close", lambda self: None)


@breaks("nothing_is_left_behind")
def a_task_outlives_its_exchange(patch: pytest.MonkeyPatch) -> None:
    after = Gateway.after

    def busy(self: Gateway, exchange: Exchange) -> None:
        after(self, exchange)
        self.spawn(asyncio.sleep(60), name="forgotten")

    patch.setattr(Gateway, "after", busy)


@breaks("two_gateways_of_it_share_no_state")
def two_gateways_have_one_plugin(patch: pytest.MonkeyPatch) -> None:
    import muxx.plugins as plugins

    instantiate, made = plugins._instantiate, {}

    def once(item: Any, settings: Any) -> Any:
        if item.name != "watching":
            return instantiate(item, settings)
        if item.name not in made:
            made[item.name] = instantiate(item, settings)
            made[item.name].seen = []
        return made[item.name]

    patch.setattr(plugins, "_instantiate", once)


@pytest.mark.parametrize("what", some(BREAKS))
async def test_a_broken_kernel_is_seen(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BREAKS[what].invariant in await BREAKS[what].found(monkeypatch)


async def test_a_whole_kernel_breaks_nothing() -> None:
    subject = Subject(Watching, "watching")
    assert broken(await examine(subject, [case for case in matrix(subject.hooks) if case.way == CHAT])) == {}


def test_every_invariant_that_a_kernel_can_break_is_broken_here() -> None:
    from muxx.testing.conformance import INVARIANTS

    only_a_plugin_can = {"the_plugin_does_not_crash_by_itself", "the_plugin_holds_up_nobody", "a_row_that_comes_again_changes_nothing"}
    broken_here = {item.invariant for item in (*BREAKS.values(), *SHARED.values())}
    assert broken_here == {i.__name__ for i in INVARIANTS} - only_a_plugin_can
