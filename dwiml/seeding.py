"""Seeds: one for all random choices of a script (weights, batches, dropout) or one for each object."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch

from dwiml.ops.randomness import check_seed, draw_seed
from dwiml.params import Parameterized

GIVEN, EVERYTHING, DRAWN, NOT_SEEDED = "given", "seed_everything", "drawn", "not seeded"
# Section of parameters.json that records the seeds. It is not a parameter, and is not compared when resuming.
SEEDS_SECTION = "seeds"

_global_seed: int | None = None


class ChosenSeed(NamedTuple):
    """A seed and its source.

    Attributes
    ----------
    seed
        From 0 to 2**63 - 1.
    source
        ``"given"`` (as an argument), ``"seed_everything"``, or ``"drawn"`` (from the entropy of the system).
    """

    seed: int
    source: str


def seed_everything(seed: int) -> int:
    """Seed all random generators, so that a script gives the same results each time it runs.

    Call it once, before creating the model, because its weights are drawn when it is created. It seeds Python's
    ``random``, NumPy's global generator and torch's generators (CPU and CUDA). Samplers, loaders and trainers that are
    given no seed use this one. A resumed training continues with the seeds recorded in its checkpoint.

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
        If the seed is not an integer in this range.
    """
    global _global_seed
    checked = _required_seed(seed, "seed_everything")
    random.seed(checked)
    # For user code and other libraries; dwiml does not use NumPy's global generator. It accepts 32 bits, which are
    # hashed from the whole seed.
    np.random.seed(np.random.SeedSequence(checked).generate_state(1))  # noqa: NPY002
    torch.manual_seed(checked)
    _global_seed = checked
    return checked


def global_seed() -> int | None:
    """Return the seed of the last call of :func:`seed_everything` in this process; None if it was not called."""
    return _global_seed


def choose_seed(seed: int | None) -> ChosenSeed:
    """Return the seed of a sampler, loader or trainer: the given one, that of :func:`seed_everything`, or a drawn one.

    Raises
    ------
    ValueError
        If the seed is not an integer from 0 to 2**63 - 1.
    """
    checked = check_seed(seed)
    if checked is not None:
        return ChosenSeed(checked, GIVEN)
    if _global_seed is not None:
        return ChosenSeed(_global_seed, EVERYTHING)
    return ChosenSeed(draw_seed(), DRAWN)


class Seeded(Parameterized):
    """Base class of the objects with a seed of their own: samplers, loaders and trainers.

    Attributes
    ----------
    seed
        From 0 to 2**63 - 1; recorded in :attr:`params`.
    seed_was_given
        Whether it was an argument.
    seed_source
        Where it comes from: see :class:`ChosenSeed`.
    """

    seed: int
    seed_was_given: bool
    seed_source: str

    def _use_seed(self, seed: int | None) -> None:
        """Use the seed that was given to the constructor, or the one of :func:`choose_seed`."""
        chosen = choose_seed(seed)
        self.seed_was_given, self.seed_source = seed is not None, chosen.source
        self.set_seed(chosen.seed)

    def set_seed(self, seed: int) -> None:
        """Use another seed from now on, for instance the recorded seed of a resumed training.

        Raises
        ------
        ValueError
            If it is not an integer from 0 to 2**63 - 1.
        """
        self.seed = _required_seed(seed, "set_seed")
        self._record(seed=self.seed)


def _required_seed(seed: int, caller: str) -> int:
    checked = check_seed(seed)
    if checked is None:
        raise ValueError(f"{caller} needs a seed, an integer from 0 to 2**63 - 1; got None.")
    return checked


def describe_seeds(weights_seed: int | None, **drawing: Seeded) -> dict[str, Any]:
    """Return the section of ``parameters.json`` that records the seeds.

    Parameters
    ----------
    weights_seed
        The global seed when the model was created; None if there was none.
    **drawing
        {name: object}.
    """
    return {
        "everything": weights_seed if weights_seed is not None else _global_seed,
        "weights": {"seed": weights_seed, "from": NOT_SEEDED if weights_seed is None else EVERYTHING},
        **{name: {"seed": seeded.seed, "from": seeded.seed_source} for name, seeded in drawing.items()},
    }
