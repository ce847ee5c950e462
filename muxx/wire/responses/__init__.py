"""OpenAI's Responses, both directions, sans-IO.

`items` knows what an answer is made of; `request` checks what goes up; `facts` learns from what comes down without changing it;
`codec` turns events into what plugins see and back (its parts: `reading`, `adding`, `writer`), and `plain` plain answers;
`envelope` holds usage, finish reasons and the gateway's own error.

For clients and providers of other formats: `prompt_reading` and `prompt_writing` turn requests into prompts and back, and
`answer_reader` reads answers.
"""

from .answer_reader import ResponseReader, read_answer
from .codec import ResponseCodec
from .envelope import error_event, read_response_usage, response_usage_object
from .facts import ResponseStream, assembled, read_response
from .plain import decode_response, encode_plain, encode_response, stream_of
from .prompt_reading import read_prompt
from .prompt_writing import write_prompt
from .request import input_bytes, request_parts, validate_response

__all__ = [
    "ResponseCodec",
    "ResponseReader",
    "ResponseStream",
    "assembled",
    "decode_response",
    "encode_plain",
    "encode_response",
    "error_event",
    "input_bytes",
    "read_answer",
    "read_prompt",
    "read_response",
    "read_response_usage",
    "request_parts",
    "response_usage_object",
    "stream_of",
    "validate_response",
    "write_prompt",
]
