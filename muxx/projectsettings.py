"""What a project sets itself: the members of the file's `[project]`, in the same shape, checked by the same models. Pure.

Whatever `ProjectConfig` has, a project may set; whatever `ProjectSettings` has is found there by its name, so a new member is
written down in those two places and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from pydantic import BaseModel

from .config import ProjectConfig
from .errors import InvalidRequest
from .money import pico_of
from .settings import Alert, Limits, ProjectSettings, SpendCap
from .tomlfile import Loc, TomlFile, key_path
from .validation import validated

USUAL_SHARE = 0.8
"""Of a limit, at which an alert is told that names none."""

Own = Mapping[str, Any]
"""A project's own settings, nested as in the file; only what it sets."""


def checked(data: Any) -> dict[str, Any]:
    """`data` as it is stored: JSON, only what is set, durations as seconds. `InvalidRequest` names what is wrong with it, and the
    nearest valid name."""
    if not isinstance(data, dict):
        raise InvalidRequest("settings must be an object.", param="settings")
    file = TomlFile(None)
    section = validated(ProjectConfig, data, (), file)
    if section is None:
        words = [f"{key_path(problem.loc)[:100]}: {problem.text}" for problem in file.problems[:10]]
        raise InvalidRequest("; ".join(words) + ".", param=key_path(file.problems[0].loc)[:100])
    return _without_empty(section.model_dump(mode="json", exclude_unset=True))


def changed(own: Own, changes: Any) -> dict[str, Any]:
    """`own` after a merge patch (RFC 7396), in which null takes a setting back; what is no setting cannot be taken back."""
    checked(_filled(changes, ProjectConfig().model_dump(mode="json")))
    return checked(_merged(own, changes))


def resolved_settings(file: ProjectConfig, own: Own) -> ProjectConfig:
    """The layers laid over one another: a project's own, else the file's, else what is built in."""
    return ProjectConfig.model_validate(_merged(file.model_dump(), own))


def settings_of(section: ProjectConfig) -> ProjectSettings:
    """A section as requests read it: its member `store_content` is that of the same name, `ttl` of its `cache` is `cache_ttl`."""
    found: dict[str, Any] = {}
    for name in ProjectConfig.model_fields:
        value = found[name] = getattr(section, name)
        if isinstance(value, BaseModel):
            found |= {f"{name}_{inner}": getattr(value, inner) for inner in type(value).model_fields}
    limits = Limits(**section.limits.model_dump())
    found["limits"] = limits if any(limits) else None
    found["spend_caps"] = tuple(SpendCap(cap.window, pico_of(cap.usd), cap.action) for cap in section.spend_caps)
    found["alerts"] = tuple(
        Alert(
            alert.window, None if alert.usd is None else pico_of(alert.usd), alert.limit,
            USUAL_SHARE if alert.share is None else alert.share, alert.to,
        )
        for alert in section.alerts
    )  # fmt: skip
    return ProjectSettings(**{field.name: found[field.name] for field in fields(ProjectSettings)})


def flat(own: Own, at: Loc = ()) -> Iterator[tuple[str, Any]]:
    """(key, value) of every setting: `cache.ttl`, 3600."""
    for name, value in own.items():
        if isinstance(value, dict):
            yield from flat(value, (*at, name))
        else:
            yield key_path((*at, name)), value


def nested_setting(key: str, value: Any) -> dict[str, Any]:
    """`cache.ttl`, 3600 as `{"cache": {"ttl": 3600}}`."""
    for step in reversed(key.split(".")):
        value = {step: value}
    return dict(value)


def _merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            before = merged.get(name)
            merged[name] = _merged(before if isinstance(before, Mapping) else {}, value)
        else:
            merged[name] = value
    return merged


def _filled(changes: Any, defaults: Any) -> Any:
    """The changes with a valid value in the place of each null that takes a setting back."""
    if not isinstance(changes, dict) or not isinstance(defaults, dict):
        return defaults if changes is None else changes
    return {name: _filled(value, defaults.get(name)) for name, value in changes.items()}


def _without_empty(own: dict[str, Any]) -> dict[str, Any]:
    pruned = {name: _without_empty(value) if isinstance(value, dict) else value for name, value in own.items()}
    return {name: value for name, value in pruned.items() if value != {}}
