"""Plain data from a file into a pydantic model, and pydantic's errors into lines for people.

- Types are strict: TOML is read as strict JSON would be, so `true` is no number and `"8080"` no port. Only a string that held a
  substitution may become a number or a boolean, for the environment knows nothing but text.
- What is said about a value never repeats it, for any value may be a secret; the nearest valid name is said instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .tomlfile import Loc, Problem, TomlFile

M = TypeVar("M", bound=BaseModel)

REQUIRED = "is required"
_WORDS = {
    "missing": REQUIRED,
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "list_type": "must be an array",
    "tuple_type": "must be an array",
}
_CONVERSIONS: dict[str, Callable[[str], Any]] = {
    "int_type": int,
    "float_type": float,
    "bool_type": {"true": True, "false": False}.__getitem__,
}


def validated(model: type[M], data: dict[str, Any], at: Loc, file: TomlFile, *, partial: bool = False) -> M | None:
    """`data`, which stands at `at` in `file`, as a `model`; or None, and what is wrong is added to the file's problems.

    A `partial` one may lack what is required: it gives None without a problem. Conversions are made in `data` itself.
    """
    details: list[ErrorDetails] = []
    for last_try in (False, True):
        try:
            text = json.dumps(data, default=str)  # only TOML's dates need it; as JSON has none, pydantic reads them from text
            return model.model_validate_json(text, strict=True, context={"directory": file.directory})
        except ValidationError as error:
            details = error.errors(include_url=False)
        converted = [_converted(data, detail, at, file) for detail in details]
        if last_try or not any(converted):
            break
    known = {problem.loc for problem in file.problems}
    for detail in details:
        loc = (*at, *(step for step in detail["loc"] if step != "[key]"))
        if loc not in known and not _follows(detail) and not (partial and detail["type"] == "missing"):
            file.problems.append(Problem(loc, _described(detail, model)))
    return None


def _follows(detail: ErrorDetails) -> bool:
    """True for an array that is too short only because its items are wrong, which is said already."""
    return detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def _converted(data: Any, detail: ErrorDetails, at: Loc, file: TomlFile) -> bool:
    """Turn a substituted string into the number or boolean its option wants; True when it was done."""
    convert = _CONVERSIONS.get(detail["type"])
    if convert is None or (*at, *detail["loc"]) not in file.written:
        return False
    *parents, last = detail["loc"]
    for step in parents:
        data = data[step]
    try:
        data[last] = convert(data[last])
    except (KeyError, ValueError):
        return False
    return True


def _described(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind, loc, given, context = detail["type"], detail["loc"], detail["input"], detail.get("ctx", {})
    keys = _keys_at(model, loc[:-1])
    if kind == "extra_forbidden":
        return "unknown key" + hint(loc[-1], keys)
    if kind == "dict_type" and keys and loc[-1] not in keys:  # a model whose other keys are tables
        return "unknown key: only a table may have a name of its own here" + hint(loc[-1], keys)
    if kind == "literal_error":
        return f"must be {context['expected']}" + hint(given, re.findall(r"'([^']*)'", context["expected"]))
    text = str(context["error"]) if "error" in context else re.sub(r"^\w+( input)? should ", "must ", detail["msg"])
    text = _WORDS.get(kind, text).replace(" after validation", "")
    return text if model.__module__.startswith("muxx.") else _without(text, given)


def hint(name: Any, names: Iterable[str]) -> str:
    """The nearest valid name, in words; nothing when none is near."""
    near = get_close_matches(name, list(names), n=1) if isinstance(name, str) else []
    return f" (did you mean '{near[0]}'?)" if near else ""


def _without(text: str, given: Any) -> str:
    """A plugin's own validator may quote what it was given; that must not reach a terminal or a log."""
    if isinstance(given, dict):
        given = list(given.values())
    if isinstance(given, list):
        for item in given:
            text = _without(text, item)
        return text
    return text.replace(given, "…") if isinstance(given, str) and len(given) > 3 else text


def _keys_at(model: type[BaseModel] | None, loc: Loc) -> Collection[str]:
    """The keys that the table at `loc` may hold."""
    steps = list(loc)
    while steps and model is not None:
        field = model.model_fields.get(str(steps.pop(0)))
        model, is_container = _section_in(field.annotation) if field is not None else (None, False)
        if is_container and steps:
            steps.pop(0)  # the index in an array, or the name in a table of tables
    return [field.alias or name for name, field in model.model_fields.items()] if model is not None else ()


def _section_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model inside an annotation, and whether a container is around it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for argument in get_args(annotation):
        model, nested = _section_in(argument)
        if model is not None:
            return model, nested or get_origin(annotation) in (dict, list, tuple)
    return None, False
