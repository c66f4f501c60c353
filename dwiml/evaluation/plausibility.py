"""Measure how well a classifier tells plausible streamlines from the others, on streamlines with known values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.batching.target_values import target_values
from dwiml.evaluation.evaluation_mode import evaluation_mode
from dwiml.training.reporting.monitors import MeanMonitor

PLAUSIBLE_FROM = 0.5
"""Smallest value of a streamline that counts as plausible."""


@dataclass(frozen=True)
class Kept:
    """What a smallest probability keeps; shares from 0 to 1, NaN without such streamlines.

    Attributes
    ----------
    plausible, others
        Shares of the plausible streamlines, and of the others, that are kept (true and false positive rates).
    plausible_among_kept
        Share of the kept streamlines that are plausible (precision).
    """

    plausible: float
    others: float
    plausible_among_kept: float


@dataclass(frozen=True, eq=False)
class PlausibilityErrors:
    """Probabilities of a classifier for streamlines whose value is known.

    Attributes
    ----------
    loss
        Mean loss of the model.
    values
        Shape (S,), from 0 to 1: the data per streamline that the model learned.
    probabilities
        Shape (S,), from 0 to 1: what it predicts.
    """

    loss: float
    values: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    @property
    def is_plausible(self) -> NDArray[np.bool_]:
        """Whether each streamline counts as plausible, shape (S,)."""
        return self.values >= PLAUSIBLE_FROM

    @property
    def constant_loss(self) -> float:
        """Mean cross-entropy (nats) of the best constant probability, the mean of the values: a baseline."""
        mean = self.values.mean(dtype=np.float64)
        shares = np.array([mean, 1 - mean])
        return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())

    @property
    def area_under_curve(self) -> float:
        """Area under the ROC curve.

        The probability that a random plausible streamline has a higher predicted probability than a random other one
        (ties count half): 0.5 without any relation. NaN if all streamlines are of one kind.
        """
        from scipy.stats import rankdata

        nb, nb_others = np.count_nonzero(self.is_plausible), np.count_nonzero(~self.is_plausible)
        if not nb or not nb_others:
            return float("nan")
        ranks = rankdata(self.probabilities)[self.is_plausible].sum()
        return float((ranks - nb * (nb + 1) / 2) / (nb * nb_others))

    def kept_from(self, min_plausibility: float) -> Kept:
        """Return what a smallest probability keeps, as :class:`dwiml.tracking.acceptance.Acceptance` does."""
        kept, plausible = self.probabilities >= min_plausibility, self.is_plausible
        return Kept(_share(kept[plausible]), _share(kept[~plausible]), _share(plausible[kept]))


def _share(chosen: NDArray[np.bool_]) -> float:
    return float(chosen.mean()) if len(chosen) else float("nan")


def evaluate_plausibility(
    classifier: Any,
    batch_sampler: DWIMLBatchIDSampler,
    batch_loader: DWIMLStreamlinesBatchLoader,
    *,
    phase: str = "validation",
    max_batches: int | None = None,
) -> PlausibilityErrors:
    """Predict the probabilities of the streamlines of a subset.

    Parameters
    ----------
    classifier
        A classifier (:class:`dwiml.models.protocols.ClassifierModel`) with a ``target_key`` of one value per
        streamline, evaluated on its current device.
    batch_sampler, batch_loader
        Sampler and loader of the experiment, with the data of the subset.
    phase
        Subset: ``"training"``, ``"validation"`` or ``"testing"``. Streamlines are never augmented.
    max_batches
        Maximum number of batches; None for all.

    Raises
    ------
    ValueError
        If the model learns no data per streamline, or not one value, or the subset has no streamlines or lacks them.
    FloatingPointError
        If a loss is NaN or infinite.
    """
    if getattr(classifier, "target_key", None) is None:
        raise ValueError(f"{type(classifier).__name__} learns no data per streamline (target_key) to compare with.")
    loss, values, probabilities = MeanMonitor("loss", f"the {phase} set"), [np.zeros(0)], [np.zeros(0)]
    batch_sampler.set_position(phase, 0, max_batches=max_batches)
    fetcher = batch_loader.fetcher(phase, augment=False)
    with evaluation_mode(classifier):
        for batch_ids in batch_sampler:
            targets, ids_per_subj = fetcher[batch_ids]
            batch = batch_loader.model_batch(targets.to(classifier.device), ids_per_subj)
            outputs = batch.run(classifier)
            mean, n = batch.loss(classifier, outputs)
            loss.update(mean, n, ids_per_subj.key.batch_index)
            loss.check()
            values.append(target_values(classifier, batch.ids_per_subj)["values"].reshape(-1).cpu().numpy())
            probabilities.append(classifier.plausibility(outputs).cpu().numpy())
    found = [np.concatenate(each).astype(np.float32) for each in (values, probabilities)]
    mean_loss = loss.mean()
    if mean_loss is None:
        raise ValueError(f"The {phase} set has no streamlines; choose another subset.")
    if len(found[0]) != len(found[1]):
        raise ValueError(
            f"{type(classifier).__name__} must give one probability and learn one value per streamline; it gave "
            f"{len(found[1])} for {len(found[0])} values."
        )
    return PlausibilityErrors(mean_loss, *found)
