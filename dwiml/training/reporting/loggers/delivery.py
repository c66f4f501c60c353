"""Whether Comet's client, which sends in the background, has sent all that it was given."""

from __future__ import annotations

import logging
from concurrent.futures import Future, wait
from typing import Any

from dwiml.training.reporting.loggers.network import run_in_thread

# The parts of the client that send; they report refusals only in their logs.
_SENDERS = ("comet_ml.streamer", "comet_ml.connection.connection_upload", "comet_ml.file_uploader")


class Delivery(logging.Handler):
    """Reads the errors of the client from its log, and waits until its queue is empty."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.error = ""
        self._flushing: Future[Any] | None = None
        for name in _SENDERS:
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first error, in one line."""
        self.error = self.error or " ".join(record.getMessage().split())

    def confirm(self, experiment: Any, seconds: float) -> bool:
        """Return whether the server has all that the experiment was given, after waiting at most `seconds`.

        Raises
        ------
        ConnectionError
            If the server has refused something.
        """
        # One that the server has not answered is not waited for again.
        if self._flushing is None or self._flushing.done():
            # An earlier one says nothing about what was given since. The first of the two may end with a pass of the
            # client that began before.
            self._flushing = run_in_thread(lambda: experiment.flush() and experiment.flush())
            wait([self._flushing], seconds)
        if self.error:
            raise ConnectionError(self.error)
        return self._flushing.done() and bool(self._flushing.result()) and _is_connected(experiment)

    def problem(self, experiment: Any) -> str:
        """Return why an experiment that has ended is not complete on the server; empty if it is."""
        return self.error or ("" if _is_connected(experiment) else "the connection was lost")

    def close(self) -> None:
        """Leave the log of the client."""
        for name in _SENDERS:
            logging.getLogger(name).removeHandler(self)
        super().close()


def _is_connected(experiment: Any) -> bool:
    # Not part of the public interface of the client: other versions may lack it.
    has_connection = getattr(getattr(experiment, "streamer", None), "has_connection_to_server", None)
    return has_connection is None or bool(has_connection())
