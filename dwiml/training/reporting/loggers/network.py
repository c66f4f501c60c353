"""Services: network calls with a time limit, and whether their packages are installed."""

from __future__ import annotations

import importlib.util
import logging
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

logger = logging.getLogger(__name__)

_PROXY_AUTHENTICATION_REQUIRED = 407
_SERVER_ERROR = 500


def run_in_thread(action: Callable[[], Any]) -> Future[Any]:
    """Run a call that may hang in a daemon thread; return its future."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, name="dwiml network", daemon=True).start()
    return future


def within(seconds: float, action: Callable[[], Any]) -> Any:
    """Run a call that may hang in a daemon thread.

    Raises
    ------
    TimeoutError
        If it takes longer than `seconds`.
    """
    future = run_in_thread(action)
    if not wait([future], seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return future.result()


def check_installed(package: str, setting: str) -> None:
    """Check that the package of a service can be imported, for a setting that needs it.

    Raises
    ------
    ValueError
        If it is not installed; the message says how to install it.
    """
    found = importlib.util.find_spec(package)
    # A folder of this name, which the service may have left, has no origin.
    if found is None or found.origin is None:
        raise ValueError(
            f'{setting} needs the package {package}, which is not installed: pip install "dwiml[{package}]"'
        )


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
