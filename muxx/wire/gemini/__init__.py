"""Google's content generation (the Gemini API), both directions, sans-IO.

`names`, `reasons`, `usage` and `media` know Google's words; `paths` where the model stands; `request` checks what goes up;
`facts` learns from what comes down without changing it; `codec` turns events into what plugins see and back (its parts: `pieces`,
`writer`), and `plain` plain answers; `counting` is `:countTokens`; `framing` the array that streams are without `alt=sse`;
`envelope` holds the gateway's own errors.

For clients and providers of other formats: `prompt_reader` and `prompt_writer` turn requests into prompts and back (their parts:
`prompt_parts`, `schema`), and `answer_reader` reads answers.
"""

from .answer_reader import GenerateReader, read_answer
from .codec import GenerateCodec
from .counting import (
    decode_count,
    encode_count,
    encode_plain_count,
    read_count,
    read_count_answer,
)
from .envelope import error_body, error_event
from .facts import GenerateStream, assembled, read_generated
from .framing import ArrayFraming
from .paths import count_payload, count_url, path_of, payload, upstream_url
from .plain import decode_generated, encode_generated, encode_plain
from .prompt_reader import read_count_prompt, read_prompt
from .prompt_writer import write_count_prompt, write_prompt
from .request import (
    candidates_asked,
    checked_in_generate,
    count_bytes,
    count_parts,
    input_bytes,
    request_parts,
    validate_count,
    validate_generate,
)
from .usage import read_gemini_usage, usage_metadata

__all__ = [
    "ArrayFraming",
    "GenerateCodec",
    "GenerateReader",
    "GenerateStream",
    "assembled",
    "candidates_asked",
    "checked_in_generate",
    "count_bytes",
    "count_parts",
    "count_payload",
    "count_url",
    "decode_count",
    "decode_generated",
    "encode_count",
    "encode_generated",
    "encode_plain",
    "encode_plain_count",
    "error_body",
    "error_event",
    "input_bytes",
    "path_of",
    "payload",
    "read_answer",
    "read_count",
    "read_count_answer",
    "read_count_prompt",
    "read_gemini_usage",
    "read_generated",
    "read_prompt",
    "request_parts",
    "upstream_url",
    "usage_metadata",
    "validate_count",
    "validate_generate",
    "write_count_prompt",
    "write_prompt",
]
