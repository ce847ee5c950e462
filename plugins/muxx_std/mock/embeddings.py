"""The mock's embeddings: vectors of unit length that depend on nothing but the input and their length."""

from __future__ import annotations

import hashlib
import math
import sys
from array import array
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import orjson

from .answer import Answer, Asked, CannotAnswer
from .completions import input_tokens, inputs_of

DIMENSIONS = {"text-embedding-3-large": 3072}
USUAL_DIMENSIONS = 1536
"""What OpenAI's other models for embeddings have."""

MOST_DIMENSIONS = 3072
MOST_INPUTS = 2048
"""OpenAI's own limits; without any, one request could keep the process busy for minutes."""


def asked(body: Mapping[str, Any]) -> Asked:
    model, inputs = str(body.get("model", "mock")), inputs_of(body.get("input"))
    if not 1 <= len(inputs) <= MOST_INPUTS:
        raise CannotAnswer(f"'input' has to hold 1 to {MOST_INPUTS} inputs, and holds {len(inputs)}.")
    if not all(map(is_input, inputs)):
        raise CannotAnswer(
            "'input' has to be a string, an array of strings, an array of tokens, or an array of arrays of tokens."
        )
    return Asked(model=model, echoes=[], input_tokens=sum(map(input_tokens, inputs)))


def is_input(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(token, int) for token in value))


def plain(answer: Answer, body: Mapping[str, Any]) -> bytes:
    """The answer as a list of `embedding` objects."""
    dimensions = body.get("dimensions") or DIMENSIONS.get(answer.model, USUAL_DIMENSIONS)
    if not isinstance(dimensions, int) or not 1 <= dimensions <= MOST_DIMENSIONS:
        raise CannotAnswer(f"'dimensions' has to be 1 to {MOST_DIMENSIONS}, and is not.")
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise CannotAnswer('\'encoding_format\' has to be "float" or "base64".')
    vectors = [vector(value, dimensions) for value in inputs_of(body.get("input"))]
    data = [
        {"object": "embedding", "index": index, "embedding": in_base64(found) if encoding == "base64" else found.tolist()}
        for index, found in enumerate(vectors)
    ]
    usage = {"prompt_tokens": answer.used.input, "total_tokens": answer.used.input} if answer.used else None
    return orjson.dumps({"object": "list", "data": data, "model": answer.model} | ({"usage": usage} if usage else {}))


def vector(value: Any, dimensions: int) -> array[float]:
    """The vector of a text, or of a list of tokens, as floats of 32 bits. A shorter one points the same way as the beginning of
    a longer one, as OpenAI's do."""
    numbers = array("i", hashlib.shake_256(orjson.dumps(value)).digest(dimensions * 4))
    if sys.byteorder == "big":
        numbers.byteswap()
    length = math.hypot(*numbers) or 1.0
    return array("f", [number / length for number in numbers])


def in_base64(found: array[float]) -> str:
    """The floats' bytes, little-endian on every machine."""
    if sys.byteorder == "big":
        found.byteswap()
    return b64encode(found.tobytes()).decode()
