"""The mock provider: OpenAI's chat completions, completions, embeddings and Responses, with no account and no network.

It is a transport like those that carry bytes over HTTP, so everything in front of it (routing, relay, accounting, logs) runs as
in production. What it answers is a pure function of the request and the model's name: the same request gets the same bytes.

`behaviour` is what a model's name asks for, `answer` what is said, with the arguments of calls as `schema` makes them up. `chat`,
`completions`, `embeddings` and `responses` say it in the words of their endpoint, `formats` knows which that is, and `transport`
sends it, with its delays and faults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from muxx import PluginConfig, Provider, hookimpl

from .transport import MockTransport

if TYPE_CHECKING:
    from muxx import Transport


class Mock:
    """A provider named `mock`, which answers by the model's name and never leaves the process.

    ===================  ================================================================================
    model                what it does
    ===================  ================================================================================
    `mock`, `mock/echo`  says the user's last message back, or the prompt; of a long one the first 65,536 characters
    any other name       the same, so that `muxx serve --mock` can answer for `gpt-4o`
    `mock/text-hi%20u`   says this text (percent-encoded)
    `mock/long-1000`     says that many words, each an event of its own in a stream
    `mock/slow-200`      waits so many milliseconds before the first byte
    `mock/drip-50`       waits so many milliseconds between two events of a stream
    `mock/tool`          calls the first function offered, with example arguments made from its JSON schema;
                         once a tool's result is the last message, answers with text
    `mock/reasoning`     thinks first (`reasoning_content`; in Responses, a summary)
    `mock/error-429`     refuses with this status, 400 to 599, and OpenAI's error body
    `mock/cut`           the connection breaks in the middle of the answer
    `mock/stall`         sends nothing more from the middle of the answer on
    `mock/garbage`       sends an event that is no JSON; a plain answer is half an object
    `mock/nousage`       reports no usage, asked or not
    `mock/nodone`        ends its stream without the event that says so: `[DONE]`, or in Responses the one with all
                         of the answer
    ===================  ================================================================================

    Names are joined with `+`: `mock/slow-200+drip-20+long-50`. A name that looks like one of these and is none gets 404 and this
    list. They mean the same at every endpoint, as far as its format has what they speak of: completions know no tools and no
    reasoning, and embeddings no text. The most tokens a request allows count words, `n` repeats the answer, and usage is
    bytes / 4.1; tokens that are given as such are counted.

    Embeddings depend on the input alone: the same text has the same vector under any model. It is of unit length and has
    `dimensions` numbers, by default 1536 (3072 for `text-embedding-3-large`).
    """

    class Config(PluginConfig):
        """`[plugins.mock]`."""

        latency_ms: int = Field(default=0, ge=0, le=600_000)
        """Milliseconds by which every answer is delayed."""
        text: str = ""
        """What every answer says in place of the echo."""

    def __init__(self, config: Config) -> None:
        self._config = config

    @hookimpl
    def register_providers(self) -> list[Provider | tuple[str, Transport]]:
        transport = MockTransport(self._config.latency_ms, self._config.text)
        return [Provider(name="mock", base_url="mock://", transport="mock"), ("mock", transport)]
