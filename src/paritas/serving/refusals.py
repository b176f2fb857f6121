"""What a server refuses, and with which status; each dialect puts it into its own form."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Literal

from litestar.exceptions import HTTPException, SerializationException
from litestar.status_codes import HTTP_500_INTERNAL_SERVER_ERROR

from paritas.errors import (
    BundleError,
    InputError,
    Overloaded,
    RunError,
    TooManyTokensError,
    VectorIndexError,
)

_log = logging.getLogger("paritas")

Kind = Literal[
    "bad_request",
    "unauthorized",
    "model_not_found",
    "not_found",
    "too_large",
    "overloaded",
    "timeout",
    "not_ready",
    "internal",
]
_STATUS: dict[Kind, int] = {
    "bad_request": 400,
    "unauthorized": 401,
    "model_not_found": 404,
    "not_found": 404,
    "too_large": 413,
    "overloaded": 429,
    "timeout": 504,
    "not_ready": 503,
    "internal": 500,
}
# What the framework calls the body, and an empty one.
_BODY = "data"
_TOO_LARGE = "the body is larger than this server takes (--max-body-mb); send fewer texts a request"
_NO_BODY = "data: 'data'"
_KINDS: dict[int, Kind] = {401: "unauthorized", 404: "not_found", 413: "too_large", 503: "not_ready"}


class Refused(Exception):  # noqa: N818 - no fault of the server
    """A request that is not answered."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        param: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Take what is told.

        Args:
            kind: what programs tell it by.
            message: what was wrong, what was expected and what to send.
            param: the field of the request that is at fault.
            status: the HTTP status; the kind's where None.
            retry_after_s: when to send it again, in seconds.
        """
        super().__init__(message)
        self.kind, self.message, self.param = kind, message, param
        self.status = status if status is not None else _STATUS[kind]
        self.headers: dict[str, str] = {}
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(math.ceil(retry_after_s))


def refused(error: Exception) -> Refused:
    """Return what a client is told of an error; of one that nobody expected, nothing of its text."""
    known: Refused | None = None
    match error:
        case Refused():
            known = error
        case Overloaded():
            known = Refused("overloaded", str(error), retry_after_s=error.retry_after_s)
        case TooManyTokensError():
            known = Refused("too_large", str(error), param="input")
        case InputError():
            known = Refused("bad_request", str(error), param="input")
        case BundleError() | VectorIndexError():
            known = Refused("not_ready", str(error))
        case RunError():
            # Its message shows the text, which is for its sender and not for the log.
            _log.error("onnxruntime cannot run a text of a request")
            known = Refused("internal", str(error), param="input")
        case UnicodeDecodeError():
            known = Refused("bad_request", f"the body is not UTF-8: {error}")
        case RecursionError():
            known = Refused("bad_request", "the body is nested too deeply")
        case HTTPException(status_code=status) if status != HTTP_500_INTERNAL_SERVER_ERROR:
            known = _of_framework(error)
    if known is not None:
        return known
    _log.error("a request failed", exc_info=error)
    return Refused("internal", "the server failed; its log says why")


def gone() -> Refused:
    """Return what nobody reads: the client has gone. Its status is nginx's."""
    return Refused("bad_request", "the client has gone", status=499)


def _of_framework(error: HTTPException) -> Refused:
    kind = _KINDS.get(error.status_code, "bad_request")
    extra = error.extra if isinstance(error.extra, list) else []
    faults = [f"{each.get('key', 'body')}: {each['message']}" for each in extra if "message" in each]
    message = "; ".join(faults) or error.detail or HTTPStatus(error.status_code).phrase
    if isinstance(error.__cause__, SerializationException):
        message = f"the body is no JSON: {message}"
    elif message == _NO_BODY:
        message = "the body is empty; expected a JSON object"
    elif kind == "too_large":
        message = _TOO_LARGE
    param = str(extra[0]["key"]) if extra and extra[0].get("key", _BODY) != _BODY else None
    told = Refused(
        kind, message.replace(f"{_BODY}: ", "the body: ", 1), param=param, status=error.status_code
    )
    told.headers.update(error.headers or {})  # what a path allows, where it is another method
    return told
