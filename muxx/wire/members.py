"""Reading a request's members into a `Prompt`: what the formats have in common.

A table says for each field of a body what it means. What has another type than its field allows raises `InvalidRequest` that
names the place, for nobody could translate it. A field that is null, or says what holds without it, is as good as absent. One
that no table knows cannot be carried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any, TypeVar

from ..errors import InvalidRequest
from .prompt import Losses, Prompt

Read = Callable[[Prompt, str, Any, Losses], None]
"""Takes the value of a field, which is not null, into the prompt."""

T = TypeVar("T")

_NAMES: dict[type, str] = {str: "a string", list: "an array", dict: "an object", bool: "true or false", int: "an integer"}


def expect(value: Any, kind: type[T], path: str) -> T:
    """The value, which is of that type. true is no integer."""
    if type(value) is kind:
        return value
    raise wrong(path, f"Give {_NAMES[kind]}.")


def wrong(path: str, advice: str) -> InvalidRequest:
    return InvalidRequest(f"'{path}' has the wrong type or value. {advice}", code="invalid_type", param=path)


def optional(holder: Mapping[str, Any], key: str, kind: type[T], path: str) -> T | None:
    """A member that may be absent or null."""
    value = holder.get(key)
    return None if value is None else expect(value, kind, f"{path}.{key}")


def tell_others(holder: Mapping[str, Any], known: Set[str], path: str, losses: Losses) -> None:
    """Members that are not the format's own, or say nothing to the model of another provider, are told as dropped."""
    for name, value in holder.items():
        if value and name not in known:
            losses.hint(f"{path}.{name}")


def read_fields(prompt: Prompt, body: Mapping[str, Any], fields: Mapping[str, Read], losses: Losses) -> None:
    for field, value in body.items():
        if value is not None:
            fields.get(field, cannot)(prompt, field, value, losses)


def member(name: str, kind: type, *, default: Any = None) -> Read:
    """The field is a member of the prompt; its default says nothing."""

    def read(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
        value = expect(value, kind, field)
        if value != default:
            setattr(prompt, name, value)
            prompt.places[name] = field

    return read


def number(name: str, *, default: float | None = None) -> Read:
    """The same for a number, with or without a fraction."""

    def read(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
        if type(value) not in (int, float):
            raise wrong(field, "Give a number.")
        if value != default:
            setattr(prompt, name, value)
            prompt.places[name] = field

    return read


def hint(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    """The answer is the same without it."""
    if value:
        losses.hint(field)


def cannot(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    losses.cannot(field)


def cannot_unless(*defaults: Any, advice: str = "") -> Read:
    """It cannot be carried, unless it says what holds without it."""

    def read(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
        if value not in defaults:
            losses.cannot(field, advice)

    return read


def passed_over(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    """It is read elsewhere, or means nothing to a provider of another format."""
