"""Who is tried: every client with its packages, its script, and the endpoints it calls."""

from __future__ import annotations

from dataclasses import dataclass, replace

CASES = ("plain", "stream", "tools", "schema", "error", "broken", "abort")

MODELS = {"openai": "gpt-4o", "anthropic": "claude-sonnet-4-6", "google": "gemini-2.5-flash"}
"""Each provider, whose format the gateway has to speak with it, and the model the clients ask it for."""

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
CONTENT = "…:generateContent"


@dataclass(frozen=True)
class Face:
    """A client at one endpoint: one row of the table. `argument` is what its script knows it by."""

    title: str
    argument: str
    path: str
    packages: tuple[str, ...]
    """Whose versions are shown."""
    without: tuple[str, ...] = ()
    """Cases the client or the endpoint does not have."""
    note: str = ""
    formats: tuple[str, ...] = tuple(MODELS)
    """Providers it can be used with."""

    @property
    def cases(self) -> tuple[str, ...]:
        return tuple(case for case in CASES if case not in self.without)

    def native(self) -> Face:
        """The same with the provider whose own format it speaks, and no other; and nobody says what has become of a broken stream."""
        own = {MESSAGES: "anthropic", CONTENT: "google"}
        return replace(self, formats=(own.get(self.path, "openai"),), without=(*self.without, "broken"))


@dataclass(frozen=True)
class Client:
    """An environment of its own with these packages, the newest unless a version is named, and a script in `clients/`."""

    name: str
    language: str
    script: str
    packages: tuple[str, ...]
    faces: tuple[Face, ...]

    def native(self) -> Client:
        """The same, for where there is no gateway to translate."""
        return replace(self, faces=tuple(face.native() for face in self.faces))


_SCHEMAS = "sends schemas only with `supportsStructuredOutputs: true`"

PYTHON = "Python"
NODE = "Node.js"

CLIENTS = (
    Client(
        "openai", PYTHON, "openai_python.py", ("openai",),
        (Face("openai", "chat", CHAT, ("openai",)), Face("openai", "responses", RESPONSES, ("openai",))),
    ),
    Client("anthropic", PYTHON, "anthropic_python.py", ("anthropic",), (Face("anthropic", "messages", MESSAGES, ("anthropic",)),)),
    Client(
        "google-genai", PYTHON, "google_python.py", ("google-genai",),
        (Face("google-genai", "generate_content", CONTENT, ("google-genai",)),),
    ),
    Client(
        "langchain-openai", PYTHON, "langchain_openai_chat.py", ("langchain-openai",),
        (Face("langchain-openai", "chat", CHAT, ("langchain-openai",)),),
    ),
    Client(
        "langchain-anthropic", PYTHON, "langchain_anthropic_chat.py", ("langchain-anthropic",),
        (Face("langchain-anthropic", "messages", MESSAGES, ("langchain-anthropic",)),),
    ),
    Client(
        "langchain-google", PYTHON, "langchain_google_chat.py", ("langchain-google-genai",),
        (Face("langchain-google-genai", "generate_content", CONTENT, ("langchain-google-genai",)),),
    ),
    Client(
        "openai-agents", PYTHON, "openai_agents.py", ("openai-agents",),
        (
            Face("OpenAI Agents SDK", "responses", RESPONSES, ("openai-agents",)),
            Face("OpenAI Agents SDK", "chat", CHAT, ("openai-agents",)),
        ),
    ),
    Client(
        "llama-index", PYTHON, "llamaindex.py", ("llama-index-llms-openai-like",),
        (
            Face("llama-index OpenAILike", "chat", CHAT, ("llama-index-llms-openai-like",)),
            Face(
                "llama-index OpenAILike", "completions", COMPLETIONS, ("llama-index-llms-openai-like",), ("tools", "schema"),
                "no other vendor has this endpoint", ("openai",),
            ),
        ),
    ),
    Client(
        "litellm", PYTHON, "litellm_sdk.py", ("litellm",),
        (Face("litellm `openai/…`", "openai", CHAT, ("litellm",)), Face("litellm `anthropic/…`", "anthropic", MESSAGES, ("litellm",))),
    ),
    Client(
        "pydantic-ai", PYTHON, "pydanticai.py", ("pydantic-ai-slim[openai,anthropic]",),
        (
            Face("pydantic-ai `openai-chat:…`", "chat", CHAT, ("pydantic-ai-slim",)),
            Face("pydantic-ai `openai:…`", "responses", RESPONSES, ("pydantic-ai-slim",)),
            Face("pydantic-ai `anthropic:…`", "messages", MESSAGES, ("pydantic-ai-slim",)),
        ),
    ),
    Client("instructor", PYTHON, "instructor_openai.py", ("instructor",), (Face("instructor", "chat", CHAT, ("instructor",), ("tools",), "a value comes by a call of a tool"),)),
    Client(
        "openai-node", NODE, "openai_node.mjs", ("openai", "zod"),
        (Face("openai", "chat", CHAT, ("openai",)), Face("openai", "responses", RESPONSES, ("openai",))),
    ),
    Client(
        "anthropic-node", NODE, "anthropic_node.mjs", ("@anthropic-ai/sdk", "zod"),
        (Face("@anthropic-ai/sdk", "messages", MESSAGES, ("@anthropic-ai/sdk",)),),
    ),
    Client(
        "google-genai-node", NODE, "google_node.mjs", ("@google/genai",),
        (Face("@google/genai", "generate_content", CONTENT, ("@google/genai",)),),
    ),
    Client(
        "ai-sdk", NODE, "ai_sdk.mjs", ("ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "@ai-sdk/anthropic", "@ai-sdk/google", "zod"),
        (
            Face("AI SDK `@ai-sdk/openai`", "responses", RESPONSES, ("ai", "@ai-sdk/openai")),
            Face("AI SDK `@ai-sdk/openai-compatible`", "chat", CHAT, ("ai", "@ai-sdk/openai-compatible"), note=_SCHEMAS),
            Face("AI SDK `@ai-sdk/anthropic`", "messages", MESSAGES, ("ai", "@ai-sdk/anthropic")),
            Face("AI SDK `@ai-sdk/google`", "generate_content", CONTENT, ("ai", "@ai-sdk/google")),
        ),
    ),
)  # fmt: skip
