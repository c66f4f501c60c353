"""Saving the best model: to disk, or in memory while the disk is full."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from dwiml.files import reason_of
from dwiml.models.base import MainModelAbstract
from dwiml.models.saving import STATE_FILE, describe, read_state, write_model

logger = logging.getLogger(__name__)


class BestModelKeeper:
    """Writes the best model; if that fails (a full disk), it keeps the weights in memory and retries.

    Parameters
    ----------
    folder
        The ``best_model`` folder of the experiment, for ``parameters.json`` and ``model_state.pt``.

    Notes
    -----
    Each file is written atomically. A process may be killed between the two: all models of an experiment have the same
    parameters, so a new ``parameters.json`` fits the weights of the previous best model.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state: dict[str, Any] | None = None
        self._parameters: dict[str, Any] = {}

    @property
    def pending(self) -> bool:
        """Whether the best weights are only in memory."""
        return self._state is not None

    def save(self, model: MainModelAbstract) -> bool:
        """Write the new best model; if that fails, keep a copy of its weights (on the CPU).

        Returns
        -------
        bool
            Whether it was written. If not, a warning gives the reason, and the previous best model stays on disk.
        """
        try:
            model.save(self.folder)
        except OSError as error:
            self._state = _on_cpu(model.state_dict())
            self._parameters = describe(model)
            logger.warning(
                "The best model could not be written to '%s' (%s); it is kept in memory and will be retried.",
                self.folder,
                reason_of(error),
            )
            return False
        self._state = None
        return True

    def retry(self, model: MainModelAbstract) -> bool:
        """Retry to write the pending best weights, if any.

        Parameters
        ----------
        model
            The model of the experiment, for its parameters; its current weights are not used.

        Returns
        -------
        bool
            Whether the best model is on disk.
        """
        self._parameters = describe(model)
        try:
            self._write_pending()
        except OSError:
            # The first failure was reported; the next report is at the end, if it still fails.
            return False
        return True

    def close(self) -> None:
        """Retry a last time; log an error if the best weights are lost."""
        try:
            self._write_pending()
        except OSError as error:
            logger.error(
                "The best model could not be written to '%s' (%s): its weights were only in memory and are lost; %s.",
                self.folder,
                reason_of(error),
                "an earlier best model is there" if (self.folder / STATE_FILE).exists() else "no earlier one is there",
            )

    def _write_pending(self) -> None:
        if self._state is None:
            return
        write_model(self.folder, self._parameters, self._state)
        self._state = None
        logger.info("The best model is now written to '%s'.", self.folder)


def warn_of_lost_model(folder: Path) -> None:
    """Warn if the best model of a resumed run is missing or damaged."""
    problem = None
    try:
        read_state(folder / STATE_FILE)
    except FileNotFoundError:
        problem = f"'{folder}' was not found"
    except ValueError as error:
        problem = str(error).rstrip(".")
    if problem:
        warnings.warn(f"{problem}; the next better epoch writes it again.", stacklevel=5)


def _on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    copied = copy.copy(state)
    for name, value in state.items():
        copied[name] = value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else copy.deepcopy(value)
    return copied
