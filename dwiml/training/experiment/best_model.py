"""The best model of a training, kept on the disk, or in memory while the disk is full."""

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
    """Writes the best model; what a full disk refuses is kept and tried again.

    Parameters
    ----------
    folder
        The experiment's ``best_model`` folder: ``parameters.json`` and ``model_state.pt``.

    Notes
    -----
    Each of the two files is whole or absent. A kill between them does no harm: all models of an experiment have the
    same parameters, so that a new ``parameters.json`` fits the weights of the best model before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state: dict[str, Any] | None = None
        self._parameters: dict[str, Any] = {}

    @property
    def pending(self) -> bool:
        """Whether the best weights are in memory only."""
        return self._state is not None

    def save(self, model: MainModelAbstract) -> bool:
        """Write a model that is now the best; keep a copy of its weights (CPU) when that fails.

        Returns
        -------
        bool
            Whether it was written. If not, a warning tells why, and the best model before stays on the disk.
        """
        try:
            model.save(self.folder)
        except OSError as error:
            self._state = _on_cpu(model.state_dict())
            self._parameters = describe(model)
            logger.warning(
                "The best model could not be written to '%s' (%s); it is kept in memory, and tried again.",
                self.folder,
                reason_of(error),
            )
            return False
        self._state = None
        return True

    def retry(self, model: MainModelAbstract) -> bool:
        """Try again to write what is pending, if anything: the best weights, not those that the model has now.

        Parameters
        ----------
        model
            The experiment's model, for its parameters.

        Returns
        -------
        bool
            Whether nothing is pending any more.
        """
        self._parameters = describe(model)
        try:
            self._write_pending()
        except OSError:
            # Told when it was first refused; told again only if it stays so until the end.
            return False
        return True

    def close(self) -> None:
        """Try a last time; log an error that names what is lost."""
        try:
            self._write_pending()
        except OSError as error:
            logger.error(
                "The best model is not in '%s' (%s): its weights were in memory only and are lost; %s.",
                self.folder,
                reason_of(error),
                "an earlier best model is there" if (self.folder / STATE_FILE).exists() else "there is none",
            )

    def _write_pending(self) -> None:
        if self._state is None:
            return
        write_model(self.folder, self._parameters, self._state)
        self._state = None
        logger.info("The best model is now written to '%s'.", self.folder)


def warn_of_lost_model(folder: Path) -> None:
    """Warn when a run that is resumed has lost its best model, or the weights in it are damaged."""
    problem = None
    try:
        read_state(folder / STATE_FILE)
    except FileNotFoundError:
        problem = f"'{folder}' is gone"
    except ValueError as error:
        problem = str(error).rstrip(".")
    if problem:
        warnings.warn(f"{problem}; the next epoch that is better writes it again.", stacklevel=5)


def _on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    copied = copy.copy(state)
    for name, value in state.items():
        copied[name] = value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else copy.deepcopy(value)
    return copied
