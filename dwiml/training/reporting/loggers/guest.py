"""A logger of the user's, in a training that goes on whatever it does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from dwiml.training.reporting.loggers.base import Logger, plain_epoch, plain_metrics

logger = logging.getLogger(__name__)


class GuestLogger(Logger):
    """Calls a user's logger; one that fails is told of in one warning, and left alone until the run is resumed.

    Parameters
    ----------
    guest
        The user's.
    """

    def __init__(self, guest: Logger) -> None:
        self._guest = guest
        self._failed = False
        # What it said last: a logger that fails later keeps it.
        self._state: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """That of the guest."""
        return self._guest.name

    def log_parameters(self, params: Mapping[str, Any]) -> None:
        """Hand the parameters on."""
        self._attempt(lambda: self._guest.log_parameters(params))

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Hand an epoch's metrics on, as plain numbers."""
        plain = plain_metrics(metrics, plain_epoch(epoch))
        self._attempt(lambda: self._guest.log_metrics(plain, epoch))

    def state_dict(self) -> dict[str, Any]:
        """Return the guest's state; of one that has failed, or has one that cannot be saved, the last that was good."""
        self._attempt(self._ask_state)
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hand the state of a checkpoint on, where there is one."""
        self._state = state
        if state:
            self._attempt(lambda: self._guest.load_state_dict(state))

    def close(self) -> str | None:
        """End the guest; return what it has to say."""
        said = self._attempt(self._guest.close)
        return said if isinstance(said, str) else None

    def _ask_state(self) -> None:
        # Reading logs does not load torch.
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
                "Logger '%s' failed (%s: %s); the training goes on without it, its metrics are in the experiment's "
                "logs folder.",
                self.name,
                type(error).__name__,
                error,
            )
            return None
