"""What comes in: a request's head, who is calling, and what an endpoint was asked for. And the routes that plugins serve."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import parse_qs

import orjson

from .errors import InvalidRequest

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy
    from pydantic import BaseModel

Environment = Literal["live", "test", "admin"]
Role = Literal["public", "project", "admin"]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

CREDENTIAL_HEADERS = frozenset(
    {"x-muxx-api-key", "authorization", "x-api-key", "x-goog-api-key", "cookie", "proxy-authorization"}
)
"""Headers no plugin sees after `authenticate`, and none of which is sent upstream unless the operator says so."""

_SHOWABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
"""The name of a query parameter that an answer may repeat."""


class HttpRequest:
    """The head of any HTTP request muxx serves: what `authenticate` and plugin routes get.

    `path` is the raw path as it stood in the request target, without the query. `headers` still hold the credentials.
    For a plugin route `params` holds the decoded path parameters and `identity` the caller, and `body()` reads the body.

    `memory` is for what costs something to learn from a head. Clients send the same head again and again, so the requests of
    one connection share one `memory` for as long as their heads are equal, byte for byte, but for the length of the body; and
    connections that begin with equal heads share it too. A plugin keeps its entry under itself; it must be true of any request
    with this head, whoever's, and still be true of a later one.
    """

    __slots__ = ("_headers", "identity", "memory", "method", "params", "path", "query_string", "remote")

    def __init__(
        self,
        method: str,
        path: str,
        query_string: str,
        headers: CIMultiDictProxy[str] | None,
        remote: str | None,
        memory: dict[Any, Any] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.query_string = query_string
        self._headers = headers
        self.remote = remote
        self.memory: dict[Any, Any] = {} if memory is None else memory
        self.params: Mapping[str, str] = {}
        self.identity: Identity | None = None

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The headers, credentials among them."""
        if self._headers is None:
            self._headers = self._read_headers()
        return self._headers

    def _read_headers(self) -> CIMultiDictProxy[str]:
        raise NotImplementedError

    @property
    def client_credential(self) -> str | None:
        """The client's own provider key, when the muxx key came in a header of its own."""
        headers = self.headers
        if "X-Muxx-Api-Key" not in headers:
            return None
        bearer = headers.get("Authorization", "")
        in_bearer = bearer[7:].strip() if bearer[:7].lower() == "bearer " else None
        values = (in_bearer, headers.get("x-api-key"), headers.get("x-goog-api-key"))
        return next((value for value in values if value and not value.startswith("muxx_sk_")), None)

    @property
    def query(self) -> dict[str, str]:
        """Query parameters; of a repeated one the last value counts. Names given with no value are kept, as empty strings.

        Raises `InvalidRequest` for more than a hundred.
        """
        return {name: values[-1] for name, values in self._pairs().items()}

    @property
    def query_once(self) -> dict[str, str]:
        """As `query`, for who would rather refuse a parameter that comes twice than drop a value: raises `InvalidRequest`."""
        pairs = self._pairs()
        for name, values in pairs.items():
            if len(values) > 1:
                shown = name if _SHOWABLE.fullmatch(name) else None
                raise InvalidRequest(f"Give the query parameter {shown or '(its name cannot be shown)'} once.", param=shown)
        return {name: values[0] for name, values in pairs.items()}

    def _pairs(self) -> dict[str, list[str]]:
        try:
            return parse_qs(self.query_string, keep_blank_values=True, max_num_fields=100)
        except ValueError:
            raise InvalidRequest("There are too many query parameters.") from None

    def body_now(self) -> bytes | None:
        """The whole request body when nobody has to wait for it; None when `body()` has to be asked."""
        return None

    async def body(self) -> bytes:
        """The whole request body, within the limits of `[server]`."""
        return b""

    async def json(self) -> Any:
        """The body as JSON; `InvalidRequest` (invalid_json) when it is none."""
        try:
            return orjson.loads(await self.body())
        except orjson.JSONDecodeError as error:
            raise InvalidRequest("The request body is not valid JSON.", code="invalid_json") from error


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is calling. What `authenticate` returns; later hooks read it, none sees the credential itself."""

    project: str
    environment: Environment = "live"
    role: Role = "project"
    key_id: str | None = None
    key_prefix: str | None = None
    key_last4: str | None = None
    models: tuple[str, ...] = ()
    """Patterns (`*` stands for anything) of the models this caller may use; empty means all."""


@dataclass(slots=True)
class Part:
    """A piece of a request a guard may want to read or change; assigning `text` writes it back into the body.

    `kind` is text, tool_arguments or tool_result; `path` names the place in the body, e.g. `messages[2].content[0].text`.
    """

    role: str
    kind: str
    path: str
    _get: Callable[[], str] = field(repr=False)
    _set: Callable[[str], None] = field(repr=False)

    @property
    def text(self) -> str:
        return self._get()

    @text.setter
    def text(self, value: str) -> None:
        self._set(value)


class Request:
    """What the caller asked for. `headers` are without credentials; `body` is the parsed JSON and is what will be sent."""

    __slots__ = ("_head", "_headers", "_parts", "body", "client_ip", "metadata", "model", "size", "stream", "user_id")

    def __init__(self, head: HttpRequest, parts: Callable[[dict[str, Any]], Iterator[Part]] | None = None) -> None:
        """`parts` is how this request's format is taken apart."""
        self._head = head
        self._headers: dict[str, str] | None = None
        self._parts = parts
        self.body: dict[str, Any] = {}
        self.model = ""
        self.stream = False
        self.size = 0
        """Bytes of the body as received."""
        self.user_id: str | None = None
        self.metadata: dict[str, Any] | None = None
        self.client_ip = head.remote

    @property
    def headers(self) -> Mapping[str, str]:
        """Request headers, lower-case names, without any credential. Lines of one name are one value, joined by commas."""
        if self._headers is None:
            found: dict[str, str] = {}
            for name, value in self._head.headers.items():
                name = name.lower()
                if name not in CREDENTIAL_HEADERS:
                    found[name] = f"{found[name]}, {value}" if name in found else value
            self._headers = found
        return self._headers

    @property
    def memory(self) -> dict[Any, Any]:
        """What is learnt of this head, as `HttpRequest.memory`."""
        return self._head.memory

    @property
    def brings_own_credential(self) -> bool:
        """The client sent a provider key of its own, beside the muxx key: providers that forward such keys are paid with it."""
        return self._head.client_credential is not None

    def parts(self) -> Iterator[Part]:
        """Every piece of text in the request, whatever its format: messages, tool arguments, tool results."""
        return self._parts(self.body) if self._parts is not None else iter(())


Shape: TypeAlias = "type[BaseModel] | Mapping[str, Any] | None"
"""What a JSON value looks like: a pydantic model, or a JSON Schema."""


@dataclass(frozen=True, slots=True)
class Route:
    """An HTTP route a plugin serves. `path` may hold `{name}` for one segment; `role` is who may call it.

    The handler is `async def handler(gateway, request: HttpRequest) -> Reply`; a raised `MuxxError` becomes the response. What
    follows `role` is for `GET /v1/openapi.json`, and all of it may be left out.
    """

    method: Method
    path: str
    handler: Callable[[Any, HttpRequest], Any]
    role: Role = "project"
    _: KW_ONLY
    body: Shape = None
    """The request's body, as `body_as` takes it; None: it has none."""
    query: Shape = None
    """The query parameters, as `query_as` takes them; None: nothing is said of them. `Asked` itself: there are none, and a
    request with any is refused before the handler is called."""
    answer: Shape = None
    """The body of the answer, where that is JSON; None: any."""
    content_types: tuple[str, ...] = ("application/json",)
    """What the answer may be."""
    status: int = 200
    """Of the answer."""
    summary: str = ""
    """In a line; "": the first sentence of the handler's docstring."""
