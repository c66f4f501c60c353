"""Waiting on a network, never longer than was said."""

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
    """Run a call that may hang in a (daemon) thread of its own; raise TimeoutError when it takes longer."""
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
    """Whether a server answers, through the proxies of the environment, within a time that covers DNS too.

    Parameters
    ----------
    url
        Any address on the server: an answer that it is not there is an answer.
    timeout
        In seconds.
    """
    # Nothing secret is sent, and Comet's client checks the certificate itself, with its own settings.
    https = urllib.request.HTTPSHandler(context=ssl._create_unverified_context())
    opener = urllib.request.build_opener(https)
    try:
        # In a thread, because the look-up of a name has no timeout of its own.
        within(timeout, lambda: opener.open(url, timeout=timeout).close())
        return True
    except urllib.error.HTTPError as error:
        with error:
            return error.code < _SERVER_ERROR and error.code != _PROXY_AUTHENTICATION_REQUIRED
    except Exception:
        logger.debug("%s is not reachable", url, exc_info=True)
        return False
