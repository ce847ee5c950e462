"""Show a configuration: every value with the layer it comes from, and the JSON Schema of what a file may say.

A secret is shown as a mask, and a string that holds a substitution as it was written: no value of the environment, and no file's
text, is ever shown.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, Secret, SecretBytes, SecretStr
from pydantic.json_schema import models_json_schema

from .config import Config, PluginConfig
from .projectsettings import Own, flat, resolved_settings
from .tomlfile import Loc, key_path

MASK = "********"
SECRET_KEYS = frozenset({"proxy"})
"""Options that are plain text where they are used, but may hold a password."""

Layer = Literal["built in", "file", "project", "environment"]


class Explained(NamedTuple):
    """An option, its value, and where that comes from."""

    key: str
    value: Any
    """A JSON value, fit to be shown."""
    layer: Layer


def layers(config: Config) -> list[Explained]:
    """Every option, the plugins' after the rest. What a provider or a model leaves open is left out."""
    return [Explained(key_path(loc), value, layer) for loc, value, layer in _Explanation(config).rows()]


def project_layers(config: Config, own: Own) -> list[Explained]:
    """Every setting of a project that sets `own` itself."""
    explanation = _Explanation(config.model_copy(update={"project": resolved_settings(config.project, own)}))
    from_file = {row.key: row.layer for row in layers(config)}
    set_itself = {f"project.{key}" for key, _ in flat(own)}
    found = []
    for loc, value, _ in explanation.section(("project",), explanation.config.project):
        key = key_path(loc)
        is_own = key.partition("[")[0] in set_itself  # a list is set as a whole
        found.append(Explained(key, value, "project" if is_own else from_file.get(key, "file")))
    return found


class _Explanation:
    def __init__(self, config: Config) -> None:
        self.config = config

    def rows(self) -> Iterator[tuple[Loc, Any, Layer]]:
        yield from self.section((), self.config)
        settings = self.config.plugin_settings
        for name, plugin in settings.items():
            yield from self.section(("plugins", name), plugin)
            yield from self._unread(name, plugin.model_extra or {})
        for name, table in self.config.plugins.tables.items():
            if name not in settings:
                yield from self._unread(name, table)

    def _unread(self, name: str, table: Mapping[str, Any]) -> Iterator[tuple[Loc, Any, Layer]]:
        """What no class was there to read: nobody can say which of its values are secrets."""
        yield from ((("plugins", name, key), _masked(value), "file") for key, value in table.items())

    def section(self, loc: Loc, section: BaseModel) -> Iterator[tuple[Loc, Any, Layer]]:
        for name, field in type(section).model_fields.items():
            layer: Layer = "file" if name in section.model_fields_set else "built in"
            yield from self._option((*loc, field.alias or name), getattr(section, name), layer)

    def _option(self, loc: Loc, value: Any, layer: Layer) -> Iterator[tuple[Loc, Any, Layer]]:
        if isinstance(value, BaseModel):
            yield from self.section(loc, value)
        elif isinstance(value, Mapping) and value:
            for name, item in value.items():
                yield from self._option((*loc, name), item, layer)
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for index, item in enumerate(value):
                yield from self._option((*loc, index), item, layer)
        elif value is not None or loc[0] not in ("providers", "models"):
            yield loc, self._shown(loc, value), layer

    def _shown(self, loc: Loc, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, (SecretStr, SecretBytes, Secret)) or loc[-1] in SECRET_KEYS:
            return MASK
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._shown((*loc, index), item) for index, item in enumerate(value)]
        if isinstance(value, Mapping):
            return {str(key): self._shown((*loc, key), item) for key, item in value.items()}
        written = self.config.written
        return written.get(loc) or written.get(loc[:-1]) or str(value)  # the latter for a target written as a plain string


def _masked(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float)) else MASK


def json_schema(plugin_configs: Mapping[str, type[PluginConfig]] | None = None) -> dict[str, Any]:
    """The JSON Schema of a configuration file, for editors; knows the settings of the plugins given."""
    classes = dict(plugin_configs or {})
    models = models_in(Config, *classes.values())
    references, schema = models_json_schema([(cls, "validation") for cls in models])
    names = {cls: references[cls, "validation"]["$ref"].rpartition("/")[2] for cls in models}
    definitions = schema["$defs"]
    for cls, name in names.items():
        describe(definitions[name].get("properties", {}), cls)
    definitions["PluginsConfig"]["properties"] |= {name: references[cls, "validation"] for name, cls in classes.items()}
    root = definitions.pop(names[Config])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "title": "muxx.toml", "$defs": definitions}


def models_in(*annotations: Any) -> list[type[BaseModel]]:
    """The models that these annotations are or hold, and those that their options hold."""
    models: dict[type[BaseModel], None] = {}
    for annotation in annotations:
        _collect(annotation, models)
    return list(models)


def _collect(annotation: Any, models: dict[type[BaseModel], None]) -> None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in models:
        models[annotation] = None
        for field in annotation.model_fields.values():
            _collect(field.annotation, models)
    for argument in get_args(annotation):
        _collect(argument, models)


def describe(properties: dict[str, dict[str, Any]], model: type[BaseModel]) -> None:
    """Give each option the text that stands under it in the source. Read only here: pydantic would at each import, for nobody."""
    for cls in model.__mro__[: model.__mro__.index(BaseModel)]:
        for option, text in pairwise(_body(cls)):
            match option, text:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(words))) if name in model.model_fields:
                    key = model.model_fields[name].alias or name
                    properties[key].setdefault("description", inspect.cleandoc(words))


def _body(cls: type) -> list[ast.stmt]:
    """The statements of a class; none when its source is not there."""
    try:
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError):
        return []
    return definition.body if isinstance(definition, ast.ClassDef) else []
