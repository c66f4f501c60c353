"""Network calls with a time limit."""

from __future__ import annotations

import logging
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

_PROXY_AUTHENTICATION_REQUIRED = 407
_SERVER_ERROR = 500


def within(seconds: float, action: Callable[[], Any]) -> Any:
    """Run a call that may hang in a daemon thread.

    Raises
    ------
    TimeoutError
        If it takes longer than `seconds`.
    """
    results: list[Any] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(action())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="comet", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


def can_reach(url: str, *, timeout: float) -> bool:
    """Return whether a server responds within a time limit, through the proxies of the environment.

    Parameters
    ----------
    url
        Any address on the server; a response such as 404 counts too.
    timeout
        Time limit in seconds, including the DNS lookup.
    """
    # Nothing secret is sent, and Comet's client checks the certificate itself, with its own settings.
    https = urllib.request.HTTPSHandler(context=ssl._create_unverified_context())
    opener = urllib.request.build_opener(https)
    try:
        # In a thread, because a DNS lookup has no timeout.
        within(timeout, lambda: opener.open(url, timeout=timeout).close())
        return True
    except urllib.error.HTTPError as error:
        with error:
            return error.code < _SERVER_ERROR and error.code != _PROXY_AUTHENTICATION_REQUIRED
    except Exception:
        logger.debug("%s is not reachable", url, exc_info=True)
        return False
