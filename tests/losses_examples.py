"""A minimal request for each row of the tables of losses in docs/translation.md, by the format and the row's field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from losses_kit import Body, Example

PNG, PDF = "iVBORw0KGgo=", "JVBERi0xLjQ="
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
EPHEMERAL = {"type": "ephemeral"}
MARKED = {"cache_control": EPHEMERAL}


def field(name: str, value: Any, **beside: Any) -> Example:
    return Example({name: value, **beside}, beside)


def each(names: str, value: Any) -> Iterator[tuple[str, Example]]:
    """Fields that are read alike."""
    for name in names.split():
        yield name, field(name, value)


def says(*content: Any) -> Body:
    """A user turn of chat and of messages, with a text first."""
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, *content]}]}


def said(*content: Any) -> Example:
    return Example(says(*content), says())


def turn(content: Any, **message: Any) -> Example:
    """A turn in the middle of a conversation of chat or messages."""
    first, last = {"role": "user", "content": "Hi"}, {"role": "user", "content": "Go on."}
    return Example({"messages": [first, {"content": content, **message}, last]}, {"messages": [first, last]})


# ── chat ──

FUNCTION: Body = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
TOOLS = [FUNCTION]
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
SOUND = {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}}
CALLED = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def file(**members: Any) -> Body:
    return {"type": "file", "file": members}


def called(result: Any = "done", arguments: str = "{}", **members: Any) -> Example:
    function = {"name": "f", "arguments": arguments}
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [{**CALLED, "function": function, **members}]},
        {"role": "tool", "tool_call_id": "call_1", "content": result},
    ]
    return Example({"messages": turns, "tools": TOOLS}, {"messages": turns[:1], "tools": TOOLS})


CHAT = {
    **dict(each("max_tokens max_completion_tokens", 9)),
    **dict(each("temperature top_p frequency_penalty presence_penalty", 0.5)),
    "temperature above 1": field("temperature", 1.5),
    "temperature, top_p and top_k to Claude 4.7 and later": Example(
        {"temperature": 0.5, "top_p": 0.5, "top_k": 5}, {}, "claude-opus-4-7"
    ),
    "stop": field("stop", ["x"]),
    **dict(each("top_k n seed top_logprobs", 2)),
    "logprobs": field("logprobs", True),
    "logit_bias": field("logit_bias", {"1": 1}),
    "tools of type function": field("tools", TOOLS),
    "strict of a function": Example(
        {"tools": [{**FUNCTION, "function": {**FUNCTION["function"], "strict": True}}]}, {"tools": TOOLS}
    ),
    "tools of other types": field("tools", [{"type": "custom", "custom": {"name": "x"}}]),
    "tool_choice": field("tool_choice", "required", tools=TOOLS),
    "tool_choice with allowed_tools": field("tool_choice", {"type": "allowed_tools", "allowed_tools": {}}, tools=TOOLS),
    "parallel_tool_calls": field("parallel_tool_calls", False, tools=TOOLS),
    "response_format with json_schema": field(
        "response_format", {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    ),
    "response_format with json_object": field("response_format", {"type": "json_object"}),
    "reasoning_effort": field("reasoning_effort", "low"),
    "verbosity": field("verbosity", "low"),
    "user": field("user", "ann"),
    "service_tier with flex or priority": field("service_tier", "flex"),
    **dict(each("metadata prompt_cache_options audio prediction web_search_options moderation", {"a": "b"})),
    **dict(each("safety_identifier prompt_cache_key prompt_cache_retention", "x")),
    "stream": field("stream", True),
    "stream_options": field("stream_options", {"include_usage": True}),
    "store": field("store", True),
    "modalities with audio": field("modalities", ["text", "audio"]),
    "functions": field("functions", [{"name": "f"}]),
    "function_call": field("function_call", {"name": "f"}),
    "a system message between turns": turn("Be brief.", role="system"),
    "name of a user or an assistant": field("messages", [{"role": "user", "content": "Hi", "name": "ann"}]),
    "images as data": said(PICTURE),
    "images by URL": said({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}),
    "detail of an image": Example(says({**PICTURE, "image_url": {**PICTURE["image_url"], "detail": "low"}}), says(PICTURE)),  # type: ignore[dict-item]
    "documents as data": said(file(file_data=f"data:application/pdf;base64,{PDF}")),
    "filename of a document": said(file(file_data=f"data:application/pdf;base64,{PDF}", filename="a.pdf")),
    "file_id": said(file(file_id="file-1")),
    "sound": said(SOUND),
    "video": said({"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{PNG}"}}),
    "cache_control of a part": Example(says({"type": "text", "text": "x", **MARKED}), says({"type": "text", "text": "x"})),
    "of a message": field("messages", [{"role": "user", "content": "Hi", **MARKED}]),
    "calls": called(),
    "results as text": called("42"),
    "arguments that are no JSON object": called(arguments="[1]"),
    "a refusal of an earlier turn": turn(None, role="assistant", refusal="No."),
    "reasoning another provider signed, or nobody": turn("x", role="assistant", reasoning_content="Hm."),
    "audio of an assistant": turn("x", role="assistant", audio={"id": "a"}),
    "role function": turn("x", role="function", name="f"),
    "members of a message": turn("x", role="user", house_member="x"),
    "of a tool": Example({"tools": [{**FUNCTION, "house_member": "x"}]}, {"tools": TOOLS}),
    "of a call that OpenAI does not have": Example(called(house_member="x").given, called().given),
}

# ── responses ──

FLAT: Body = {"type": "function", "name": "f", "parameters": SCHEMA}
FLAT_PICTURE = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}


def asked(*content: Any) -> Body:
    return {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}, *content]}]}


def put_in(*content: Any) -> Example:
    return Example(asked(*content), asked())


def flat(**members: Any) -> Example:
    return Example({"tools": [{**FLAT, **members}]}, {"tools": [FLAT]})


SAID: Body = {"role": "assistant", "content": "x"}


def item(*items: Any) -> Example:
    first, last = {"role": "user", "content": "Hi"}, {"role": "user", "content": "Go on."}
    return Example({"input": [first, *items, last]}, {"input": [first, last]})


def flat_called(output: Any = "done", arguments: str = "{}", **members: Any) -> Example:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments, **members}
    return item(call, {"type": "function_call_output", "call_id": "c", "output": output})


RESPONSES = {
    "instructions": field("instructions", "Be brief."),
    **dict(each("max_output_tokens max_tool_calls top_logprobs", 9)),
    **dict(each("temperature top_p", 0.5)),
    "temperature above 1": field("temperature", 1.5),
    "tools of type function": field("tools", [FLAT]),
    "strict of a function": flat(strict=True),
    "tools of other types": field("tools", [{"type": "web_search"}]),
    "tool_choice": field("tool_choice", "required", tools=[FLAT]),
    "tool_choice with allowed_tools": field("tool_choice", {"type": "allowed_tools", "tools": []}, tools=[FLAT]),
    "parallel_tool_calls": field("parallel_tool_calls", False, tools=[FLAT]),
    "text.format with json_schema": field("text", {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}),
    "text.format with json_object": field("text", {"format": {"type": "json_object"}}),
    "text.verbosity": field("text", {"verbosity": "low"}),
    "reasoning.effort": field("reasoning", {"effort": "low"}),
    "reasoning.summary": field("reasoning", {"summary": "auto"}),
    "reasoning.context": field("reasoning", {"context": "all_turns"}),
    "reasoning.mode": field("reasoning", {"mode": "pro"}),
    "include of reasoning.encrypted_content": field("include", ["reasoning.encrypted_content"]),
    "include of what tools of the provider's returned": field("include", ["file_search_call.results"]),
    "include of anything else": field("include", ["message.output_text.logprobs"]),
    "truncation": field("truncation", "auto"),
    **dict(each("previous_response_id conversation", "x")),
    "background": field("background", True),
    **dict(each("prompt background_options context_management moderation access_programs image", {"a": "b"})),
    **dict(each("metadata client_metadata prompt_cache_options", {"a": "b"})),
    **{
        name: CHAT[name]
        for name in ("safety_identifier", "prompt_cache_key", "prompt_cache_retention", "user", "stream", "store")
    },
    "service_tier with flex or priority": field("service_tier", "flex"),
    "stream_options": field("stream_options", {"include_obfuscation": False}),
    "a system or developer message between turns": item({"role": "developer", "content": "Be brief."}),
    "images as data": put_in(FLAT_PICTURE),
    "images by URL": put_in({"type": "input_image", "image_url": "https://example.org/a.png"}),
    "file_id of an image": put_in({"type": "input_image", "file_id": "file-1"}),
    "detail of an image": Example(asked({**FLAT_PICTURE, "detail": "low"}), asked(FLAT_PICTURE)),
    "documents as data": put_in({"type": "input_file", "file_data": f"data:application/pdf;base64,{PDF}"}),
    "file_url": put_in({"type": "input_file", "file_url": "https://example.org/a.pdf"}),
    "file_id of a document": put_in({"type": "input_file", "file_id": "file-1"}),
    "sound": put_in(SOUND),
    "calls": flat_called(),
    "results as text": flat_called("42"),
    "results with images": flat_called([FLAT_PICTURE]),
    "arguments that are no JSON object": flat_called(arguments="[1]"),
    "reasoning another provider signed, or nobody": item(
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    ),
    "item_reference": item({"type": "item_reference", "id": "x"}),
    "items of the provider's own tools": item({"type": "web_search_call", "id": "w", "status": "completed"}),
    "a refusal of an earlier turn": item({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}),
    "annotations of an earlier text": item(
        {"role": "assistant", "content": [{"type": "output_text", "text": "x", "annotations": [{"type": "url_citation"}]}]}
    ),
    "defer_loading": flat(defer_loading=True),
    "allowed_callers of a function": flat(allowed_callers=["programmatic"]),
    "output_schema of a function": flat(output_schema=SCHEMA),
    "phase": Example(item({**SAID, "phase": "commentary"}).given, item(SAID).given),
    "namespace": Example(flat_called(namespace="crm").given, flat_called().given),
    "caller of an item": Example(flat_called(caller={"type": "direct"}).given, flat_called().given),
    "members of an item": Example(item({**SAID, "house_member": "x"}).given, item(SAID).given),
    "of a tool that OpenAI does not have": flat(house_member="x"),
}

# ── messages ──

OWN: Body = {"name": "f", "input_schema": SCHEMA}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
TEXT = {"type": "text", "text": "x"}
PLAIN = {"type": "text", "media_type": "text/plain", "data": "x"}
PORTABLE = {"type": "base64", "media_type": "application/pdf", "data": PDF}


def own(**members: Any) -> Example:
    return Example({"tools": [{**OWN, **members}]}, {"tools": [OWN]})


def document(source: Body, **members: Any) -> Example:
    return said({"type": "document", "source": source, **members})


def assistant(*blocks: Any) -> Example:
    return turn([*blocks, TEXT], role="assistant")


def used(content: Any = "done", **result: Any) -> Example:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": content, **result}]},
    ]
    return Example({"messages": turns, "tools": [OWN]}, {"messages": turns[:1], "tools": [OWN]})


_REFUSED = "mcp_servers container context_management compaction thread billing_policy fallbacks fallback_credit_token"

MESSAGES = {
    "system": field("system", "Be brief."),
    "max_tokens": field("max_tokens", 9),
    **dict(each("temperature top_p", 0.5)),
    "top_k": field("top_k", 5),
    "stop_sequences": field("stop_sequences", ["x"]),
    "tools of the caller's own": field("tools", [OWN]),
    "strict of a tool": own(strict=True),
    "tools that Anthropic runs or defines": field("tools", [{"type": "web_search_20250305", "name": "web_search"}]),
    "eager_input_streaming of a tool": own(eager_input_streaming=True),
    "defer_loading": own(defer_loading=True),
    "input_examples": own(input_examples=[{"a": "x"}]),
    "allowed_callers of a tool": own(allowed_callers=["code_execution_20250825"]),
    "tool_choice": field("tool_choice", {"type": "any"}, tools=[OWN]),
    "tool_choice.disable_parallel_tool_use": Example(
        {"tools": [OWN], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        {"tools": [OWN], "tool_choice": {"type": "auto"}},
    ),
    "thinking with a budget": field("thinking", {"type": "enabled", "budget_tokens": 2048}),
    "thinking that is adaptive": field("thinking", {"type": "adaptive"}),
    "thinking that is disabled": Example({"thinking": {"type": "disabled"}}, {}, "gpt-5.1"),
    "output_config.effort": field("output_config", {"effort": "low"}),
    "output_config.format": field("output_config", {"format": {"type": "json_schema", "schema": SCHEMA}}),
    "output_format": field("output_format", {"type": "json_schema", "schema": SCHEMA}),
    "metadata.user_id up to 64 characters": field("metadata", {"user_id": "u" * 64}),
    "metadata.user_id that is longer": field("metadata", {"user_id": "u" * 65}),
    "other metadata": field("metadata", {"a": "b"}),
    "service_tier with standard_only": field("service_tier", "standard_only"),
    "cache_control of a text": Example(says({**TEXT, **MARKED}), says(TEXT)),
    "of a tool": own(**MARKED),
    "of the request": field("cache_control", EPHEMERAL),
    "stream": field("stream", True),
    **dict(each("diagnostics speed user_profile_id workspace_id betas inference_geo", "x")),
    **dict(each(_REFUSED, {"a": "b"})),
    "a system message between turns": turn("Be brief.", role="system"),
    "images as data": said(IMAGE),
    "images by URL": said({"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}),
    "images by file_id": said({"type": "image", "source": {"type": "file", "file_id": "file_1"}}),
    "documents as data": document(PORTABLE),
    "documents by URL": document({"type": "url", "url": "https://example.org/a.pdf"}),
    "documents by file_id": document({"type": "file", "file_id": "file_1"}),
    "documents as text": document(PLAIN),
    "title of a document": document(PORTABLE, title="A"),
    "context and citations of a document": document(PLAIN, context="c", citations={"enabled": True}),
    "citations of an earlier text": turn([{**TEXT, "citations": [{"type": "char_location"}]}], role="assistant"),
    "calls": used(),
    "results as text": used("42"),
    "results with images": used([IMAGE]),
    "is_error of a result": Example(used(is_error=True).given, used().given),
    "search_result": said({"type": "search_result", "source": "s", "title": "t", "content": []}),
    "tool_reference": used([{"type": "tool_reference", "tool_name": "f"}]),
    "thinking": assistant({"type": "thinking", "thinking": "Hm.", "signature": "c2lnbmVk"}),
    "redacted_thinking of Claude's in earlier turns": assistant({"type": "redacted_thinking", "data": "c2VjcmV0"}),
    "blocks of tools that Anthropic runs": assistant({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}),
    "an assistant turn at the end": field(
        "messages", [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Once"}]
    ),
    "members of a message that Anthropic does not have": turn("x", role="user", house_member="x"),
}

# ── generate_content ──

DECLARED: Body = {"name": "f", "parameters": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}}


def config(name: str, value: Any, **beside: Any) -> Example:
    return Example({"generationConfig": {name: value, **beside}}, {})


def configs(names: str, value: Any) -> Iterator[tuple[str, Example]]:
    for name in names.split():
        yield f"generationConfig.{name}", config(name, value)


def declared(**members: Any) -> Example:
    tools = [[{"functionDeclarations": [{**DECLARED, **added}]}] for added in (members, {})]
    return Example({"tools": tools[0]}, {"tools": tools[1]})


def calling(**members: Any) -> Example:
    return Example({**declared().given, "toolConfig": {"functionCallingConfig": members}}, declared().given)


def part(*parts: Any) -> Example:
    hello = {"text": "Hi"}
    return Example({"contents": [{"role": "user", "parts": [hello, *parts]}]}, {"contents": [{"role": "user", "parts": [hello]}]})


def inline(mime: str, **members: Any) -> Body:
    return {"inlineData": {"mimeType": mime, "data": PDF, **members}}


def modelled(*parts: Any) -> Example:
    first, last = ({"role": "user", "parts": [{"text": text}]} for text in ("Hi", "Go on."))
    return Example({"contents": [first, {"role": "model", "parts": list(parts)}, last]}, {"contents": [first, last]})


def responded(**members: Any) -> Example:
    contents = [
        {"role": "user", "parts": [{"text": "Hi"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"output": "done"}, **members}}]},
    ]
    return Example({"contents": contents}, {"contents": contents[:1]})


_JSON = {"responseMimeType": "application/json"}
_OBJECTS = """
    speechConfig responseFormat routingConfig modelSelectionConfig audioTranscriptionConfig translationConfig
"""

GENERATE_CONTENT = {
    "systemInstruction": field("systemInstruction", {"parts": [{"text": "Be brief."}]}),
    **dict(configs("maxOutputTokens topK candidateCount seed logprobs", 2)),
    **dict(configs("temperature topP frequencyPenalty presencePenalty", 0.5)),
    "generationConfig.temperature above 1": config("temperature", 1.5),
    "generationConfig.stopSequences": config("stopSequences", ["x"]),
    "generationConfig.thinkingConfig.thinkingBudget": config("thinkingConfig", {"thinkingBudget": 2048}),
    "generationConfig.thinkingConfig.thinkingBudget of -1": config("thinkingConfig", {"thinkingBudget": -1}),
    "generationConfig.thinkingConfig.thinkingLevel": config("thinkingConfig", {"thinkingLevel": "LOW"}),
    "generationConfig.thinkingConfig.includeThoughts": config("thinkingConfig", {"includeThoughts": True}),
    "generationConfig.responseSchema": config("responseSchema", {"type": "OBJECT"}, **_JSON),
    "generationConfig.responseJsonSchema": config("responseJsonSchema", SCHEMA, **_JSON),
    "generationConfig.responseMimeType of JSON, without a schema": config("responseMimeType", "application/json"),
    "generationConfig.responseMimeType of anything else": config("responseMimeType", "text/x.enum"),
    **dict(configs("responseLogprobs audioTimestamp enableAffectiveDialog enableEnhancedCivicAnswers", True)),
    "generationConfig.responseModalities of more than text": config("responseModalities", ["TEXT", "IMAGE"]),
    "generationConfig.mediaResolution": config("mediaResolution", "MEDIA_RESOLUTION_LOW"),
    **dict(configs(_OBJECTS, {"a": "b"})),
    "functionDeclarations": Example(declared().given, {}),
    "response of a function": declared(response={"type": "OBJECT"}),
    "behavior of a function that does not block": declared(behavior="NON_BLOCKING"),
    "tools that Google runs": field("tools", [{"googleSearch": {}}]),
    "toolConfig.functionCallingConfig": calling(mode="ANY"),
    "allowedFunctionNames of several": calling(mode="ANY", allowedFunctionNames=["f", "g"]),
    "mode VALIDATED": calling(mode="VALIDATED"),
    "toolConfig.retrievalConfig": field("toolConfig", {"retrievalConfig": {"languageCode": "de"}}),
    "toolConfig.includeServerSideToolInvocations": field("toolConfig", {"includeServerSideToolInvocations": True}),
    "safetySettings": field("safetySettings", [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]),
    "cachedContent": field("cachedContent", "cachedContents/x"),
    "labels": field("labels", {"a": "b"}),
    "store": field("store", True),
    "serviceTier": field("serviceTier", "flex"),
    ":streamGenerateContent": field("stream", True),
    "images as data": part(inline("image/png")),
    "documents as data": part(inline("application/pdf")),
    "sound as data": part(inline("audio/wav")),
    "video as data": part(inline("video/mp4")),
    "videoMetadata": part({**inline("image/png"), "videoMetadata": {"fps": 1}}),
    "fileData at a URL of anybody's": part({"fileData": {"mimeType": "image/png", "fileUri": "https://example.org/a.png"}}),
    "fileData that only Google can read": part({"fileData": {"mimeType": "image/png", "fileUri": "gs://bucket/a.png"}}),
    "calls and their responses": responded(),
    "willContinue": modelled({"functionCall": {"name": "f", "args": {}, "willContinue": True}}),
    "partialArgs of a call": modelled({"functionCall": {"name": "f", "args": {}, "partialArgs": [{"jsonPath": "$.a"}]}}),
    "responses with images": responded(parts=[inline("image/png")]),
    "willContinue and scheduling of a response": responded(willContinue=True, scheduling="SILENT"),
    "a response without a call": part({"functionResponse": {"name": "f", "response": {}}}),
    "thoughts and thoughtSignature of Google's in earlier turns": modelled(
        {"text": "Hm.", "thought": True}, {"text": "x", "thoughtSignature": "c2lnbmVk"}
    ),
    "code and its results in earlier turns": modelled(
        {"executableCode": {"language": "PYTHON", "code": "1"}}, {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}}
    ),
}

EXAMPLES: dict[str, dict[str, Example]] = {
    "chat": CHAT, "responses": RESPONSES, "messages": MESSAGES, "generate_content": GENERATE_CONTENT,
}  # fmt: skip
