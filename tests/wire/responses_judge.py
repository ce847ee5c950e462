"""What any client may rely on in a Responses stream, looked at closely: by ourselves, and by OpenAI's own SDK."""

from __future__ import annotations

import warnings
from itertools import count
from typing import Any

from muxx.reply import Chunk
from muxx.wire.responses.facts import TERMINAL
from muxx.wire.responses.items import DELTAS, DONES, written
from muxx.wire.wires import RESPONSES

from .passing import Hook, objects, through, words


def passed(data: bytes, hook: Hook) -> bytes:
    return through(RESPONSES, data, hook)


def texts_of(data: bytes) -> tuple[dict[Any, str], dict[Any, str]]:
    """Every text of a stream: as its pieces say, and as the terminal event does."""
    pieces: dict[Any, str] = {}
    events = objects(data)
    for event in events:
        if (form := DELTAS.get(event["type"])) is not None:
            place = (event["output_index"], *form.path_of(event))
            pieces[place] = pieces.get(place, "") + event["delta"]
    items = enumerate(events[-1]["response"]["output"])
    whole = {(at, *path): container[key] for at, item in items for path, container, key in written(item)}
    return {place: text for place, text in pieces.items() if text}, {place: text for place, text in whole.items() if text}


def consistent(data: bytes) -> list[Any]:
    """What any client may rely on: the events of a stream, after a look at their order, places and repeats."""
    events = objects(data)
    assert [event["type"] for event in events].count("response.created") == 1
    assert [event["type"] in TERMINAL for event in events] == [False] * (len(events) - 1) + [True]
    numbers = [event["sequence_number"] for event in events if "sequence_number" in event]
    assert numbers == sorted(numbers)
    places: dict[int, Any] = {}
    said: dict[Any, str] = {}
    ends = [
        (event["type"], event["output_index"], *[event.get(f"{part}_index") for part in ("content", "summary", "command")])
        for event in events
        if event["type"].endswith(".done")
    ]
    assert len(ends) == len(set(ends)), "nothing ends twice"
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert event["output_index"] == len(places), "items are numbered in the order in which they begin"
            places[event["output_index"]] = event["item"]
        elif "output_index" in event and (form := DELTAS.get(kind) or DONES.get(kind)) is not None:
            assert event["output_index"] in places, f"{kind} of an item that has not begun"
            place = (event["output_index"], *form.path_of(event))
            if kind in DELTAS:
                said[place] = said.get(place, "") + event["delta"]
            else:
                assert event[form.member] == said.get(place, event[form.member])
    for at, item in enumerate(events[-1]["response"]["output"]):
        assert (item["type"], item.get("id")) == (places[at]["type"], places[at].get("id"))
        for path, container, key in written(item):
            assert container[key] == said.get((at, *path), container[key])
    return events


def accepted(data: bytes) -> str:
    """The text OpenAI's own SDK reads from a stream, by the helper that keeps a snapshot and is strict about its order."""
    import httpx2
    from openai import OpenAI

    def serve(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=data)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its models warn of tools they do not know
        client = OpenAI(api_key="x", base_url="http://x", http_client=httpx2.Client(transport=httpx2.MockTransport(serve)))
        with client.responses.stream(model="gpt-5", input="hi") as events:
            last = [event.type for event in events][-1]
            return events.get_final_response().output_text if last == "response.completed" else ""


def drop(chunk: Chunk) -> list[Chunk] | None:
    return [] if words(chunk) else None


def ending(at: int, **members: Any) -> Hook:
    """Ends an answer at its Chunk of that number."""
    numbers = count()
    return lambda chunk: [Chunk("end", **members)] if next(numbers) == at else None
