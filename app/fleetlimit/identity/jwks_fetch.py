"""Fetches a JWKS document over HTTP: bounded in time and size, and never redirected."""

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

MAX_DOCUMENT_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Refuse: a redirect could lead from https to http."""


def fetch_document(
    url: str, timeout: float, *, clock: Callable[[], float] = time.monotonic
) -> bytes:
    """Return the document; blocks, so it is called in a thread.

    Args:
        url: An http or https URL; the environment's proxy settings apply.
        timeout: Seconds for each step of the connection, and for all of the body.
        clock: Monotonic seconds.

    Raises:
        OSError: The server was not reached, not in time, or did not answer with success.
        ValueError: The document is too large.
    """
    deadline = clock() + timeout
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        response = opener.open(url, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"the server answered {error.code}") from None
    body = bytearray()
    with response:
        while chunk := response.read1(_CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_DOCUMENT_BYTES:
                raise ValueError(f"the document is larger than {MAX_DOCUMENT_BYTES} bytes")
            if clock() > deadline:
                raise TimeoutError("the document did not arrive in time")
    return bytes(body)
