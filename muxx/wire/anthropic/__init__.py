"""Anthropic's Messages, both directions, sans-IO.

`blocks` knows what a message is made of; `request` checks what goes up; `facts` learns from what comes down without changing it;
`codec` turns events into what plugins see and back (its parts: `reading`, `writer`), and `plain` plain answers; `counting` is the
endpoint that only counts tokens; `usage` counts; `envelope` holds stop reasons and the gateway's own errors.

To and from other formats: `prompt_reading` and `prompt_writing` (`thinking` is the part that depends on the model), and
`answer_reader`; `codec` and `plain` write what others' answers say.
"""

from .answer_reader import MessageReader, read_answer
from .codec import MessageCodec
from .counting import decode_count, encode_count, encode_plain_count, read_count
from .envelope import error_body, error_event
from .facts import MessageStream, assembled, read_message
from .plain import decode_message, encode_message, encode_plain, stream_of
from .prompt_reading import read_prompt
from .prompt_writing import write_prompt
from .request import input_bytes, request_parts, validate_count, validate_messages
from .usage import message_usage_object, read_message_usage

__all__ = [
    "MessageCodec",
    "MessageReader",
    "MessageStream",
    "assembled",
    "decode_count",
    "decode_message",
    "encode_count",
    "encode_message",
    "encode_plain",
    "encode_plain_count",
    "error_body",
    "error_event",
    "input_bytes",
    "message_usage_object",
    "read_answer",
    "read_count",
    "read_message",
    "read_message_usage",
    "read_prompt",
    "request_parts",
    "stream_of",
    "validate_count",
    "validate_messages",
    "write_prompt",
]
