"""One seed for everything that is random in a script: the weights, the batches, the augmentation, dropout."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch

from dwiml.ops.randomness import check_seed, draw_seed

GIVEN, EVERYTHING, DRAWN, NOT_SEEDED = "given", "seed_everything", "drawn", "not seeded"
# The section of parameters.json that tells them; it is not a parameter, and is not compared at a resume.
SEEDS = "seeds"

_everything: int | None = None


class ChosenSeed(NamedTuple):
    """A seed and where it is from.

    Attributes
    ----------
    seed
        From 0 to 2**63 - 1.
    source
        ``"given"`` as an argument, ``"seed_everything"``, or ``"drawn"`` from the system's entropy.
    """

    seed: int
    source: str


def seed_everything(seed: int) -> int:
    """Seed all that is random, so that a script gives the same results each time that it runs.

    Call it once, before the model is made: weights are drawn when a model is made. It seeds Python's ``random``,
    numpy's global generator, and torch's (CPU and CUDA); samplers, loaders and trainers that are given no seed of their
    own use this one. A training that is resumed goes on with what its checkpoint recorded, whatever the seed.

    Parameters
    ----------
    seed
        From 0 to 2**63 - 1.

    Returns
    -------
    int
        The seed.

    Raises
    ------
    ValueError
        For anything else.
    """
    global _everything
    checked = None if seed is None else check_seed(seed)
    if checked is None:
        raise ValueError("seed_everything needs a seed, an integer from 0 to 2**63 - 1; got None.")
    random.seed(checked)
    # For code of the user's and of other libraries: dwiml itself draws from no global generator of numpy's. It takes 32
    # bits: those of the whole seed, mixed.
    np.random.seed(np.random.SeedSequence(checked).generate_state(1))  # noqa: NPY002
    torch.manual_seed(checked)
    _everything = checked
    return checked


def seed_of_everything() -> int | None:
    """Return what :func:`seed_everything` was last called with in this process; None when it was not."""
    return _everything


def choose_seed(seed: int | None) -> ChosenSeed:
    """Return the seed of a sampler, loader or trainer: its own, that of everything, or one that is drawn.

    Raises
    ------
    ValueError
        For a seed that generators do not accept.
    """
    checked = check_seed(seed)
    if checked is not None:
        return ChosenSeed(checked, GIVEN)
    if _everything is not None:
        return ChosenSeed(_everything, EVERYTHING)
    return ChosenSeed(draw_seed(), DRAWN)


def describe_seeds(weights_seed: int | None, **drawing: Any) -> dict[str, Any]:
    """Return what was seeded and what was not, for ``parameters.json``.

    Parameters
    ----------
    weights_seed
        That of everything when the model was made; None when nothing was seeded then.
    **drawing
        Objects with ``seed`` and ``seed_source``, by name.
    """
    return {
        "everything": weights_seed if weights_seed is not None else _everything,
        "weights": {"seed": weights_seed, "from": NOT_SEEDED if weights_seed is None else EVERYTHING},
        **{name: {"seed": thing.seed, "from": thing.seed_source} for name, thing in drawing.items()},
    }
