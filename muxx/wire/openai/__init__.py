"""OpenAI's chat completions, both directions, sans-IO.

`request` checks and edits what goes up; `answer` learns from what comes down without changing it, `stream` event by event;
`chunks` turns answers into what plugins see and back (`pieces` knows the JSON); `usage` counts; `envelope` holds the gateway's
own words. `apart` and `gathered` turn a plain answer into a stream and a stream into a plain answer, with all they hold.
`completions` and `embeddings` are the endpoints of those names, and `prompt` is what both are asked with.

For clients and providers of other formats: `prompt_reading` and `prompt_writing` turn requests into prompts and back (`members`
and `content` are what they have in common with Responses), `answer_reader` reads answers (`calls` puts tool calls in order), and
`thoughts` knows where reasoning and signatures stand.
"""

from .answer import assembled, read_completion
from .answer_reader import ChatReader, read_answer
from .chunks import DONE_EVENT, ChunkEncoder, decode_completion, encode_completion, encode_plain, ended
from .envelope import comment_event, error_body, error_event
from .prompt_reading import read_prompt
from .prompt_writing import write_prompt
from .request import ask_for_usage, checked_in_chat, input_bytes, request_parts, validate_chat
from .stream import ChatStream
from .usage import read_usage, usage_object

__all__ = [
    "DONE_EVENT",
    "ChatReader",
    "ChatStream",
    "ChunkEncoder",
    "ask_for_usage",
    "assembled",
    "checked_in_chat",
    "comment_event",
    "decode_completion",
    "encode_completion",
    "encode_plain",
    "ended",
    "error_body",
    "error_event",
    "input_bytes",
    "read_answer",
    "read_completion",
    "read_prompt",
    "read_usage",
    "request_parts",
    "usage_object",
    "validate_chat",
    "write_prompt",
]
