"""A refusal or a failure, in OpenAI's shape and in KServe's."""

from msgspec import Struct


class Error(Struct):
    """OpenAI's error object; the SDK reads all of it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Struct):
    """The body of a refusal or a failure; in a stream that has begun, its last event."""

    error: Error


class KServeError(Struct):
    """The same under `/v2`, where the error is the text itself and tritonclient reads it so."""

    error: str
