"""The user's loggers, which cannot stop a training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from dwiml.training.reporting.loggers.base import Logger, plain_epoch, plain_metrics

logger = logging.getLogger(__name__)


class GuestLogger(Logger):
    """Wraps a user's logger; if it fails, one warning is shown, and it is not called until the run is resumed.

    Parameters
    ----------
    guest
        The user's logger.
    """

    def __init__(self, guest: Logger) -> None:
        self._guest = guest
        self._failed = False
        # Its last valid state, kept if it fails later.
        self._state: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The name of the user's logger."""
        return self._guest.name

    def log_parameters(self, params: Mapping[str, Any]) -> None:
        """Pass on the parameters."""
        self._attempt(lambda: self._guest.log_parameters(params))

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Pass on the metrics of an epoch, as plain numbers."""
        plain = plain_metrics(metrics, plain_epoch(epoch))
        self._attempt(lambda: self._guest.log_metrics(plain, epoch))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the user's logger; its last valid one if it failed or the state cannot be saved."""
        self._attempt(self._ask_state)
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Pass on the state of a checkpoint, if there is one."""
        self._state = state
        if state:
            self._attempt(lambda: self._guest.load_state_dict(state))

    def close(self) -> str | None:
        """Close the user's logger; return its sentence for the user."""
        sentence = self._attempt(self._guest.close)
        return sentence if isinstance(sentence, str) else None

    def _ask_state(self) -> None:
        # Imported here so that reading logs does not load torch.
        from dwiml.files.tensors import check_plain

        state = self._guest.state_dict()
        if type(state) is not dict:
            raise TypeError(f"its state_dict must return a dictionary, got a {type(state).__name__}")
        check_plain(state)
        self._state = state

    def _attempt(self, action: Callable[[], Any]) -> Any:
        if self._failed:
            return None
        try:
            return action()
        except Exception as error:
            self._failed = True
            logger.warning(
                "Logger '%s' failed (%s: %s); the training continues without it, and the metrics are in the local log.",
                self.name,
                type(error).__name__,
                error,
            )
            return None
