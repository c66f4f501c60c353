"""Generation-validation: the model continues the validation streamlines by itself, and is judged by what it makes."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dwiml.arguments import check_whole
from dwiml.batching.fetcher import BatchSlices
from dwiml.batching.loader import DWIMLBatchLoaderOneInput
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.data.dataset import SubjectData
from dwiml.models.protocols import TrackingModel, check_tracks
from dwiml.ops.directions import streamline_lengths_mm
from dwiml.ops.masks import Mask, as_mask
from dwiml.ops.sequences import TensorSequence
from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.ground_truth_files import read_ground_truth
from dwiml.tracking.propagation import MASK, PropagationRules, PropagationStopped, Propagator
from dwiml.training.checks import check_choice
from dwiml.training.generation.measures import SubjectReference, measure_continued
from dwiml.training.generation.selection import INVALID_CONNECTIONS, LEFT_MASK, LOWER_IS_BETTER, VALID_CONNECTIONS
from dwiml.training.one_input import DWIMLTrainerOneInput
from dwiml.training.reproducibility import generators_as_they_were, generators_state
from dwiml.training.state import GENERATION
from dwiml.training.trainer import NOTHING

logger = logging.getLogger(__name__)


class DWIMLTrainerOneInputWithGVPhase(DWIMLTrainerOneInput):
    """A trainer that also lets the model track, every few epochs, and measures what comes of it.

    In the generation-validation phase the first segments of the validation streamlines are given to the model, which
    goes on step by step from its own points. The log then has, as means over these streamlines:

    - ``gv_endpoint_distance_mm``: from the last point that was made to the end of the true streamline;
    - ``gv_length_ratio``: length of the streamline that was made, divided by that of the true one;
    - ``gv_left_mask``: the share that left the mask too soon, before 95% of the true length (with
      ``tracking_phase_mask_group``);
    - ``gv_invalid_connections``: the share whose two ends lie in regions that the subject's connectivity matrix does
      not connect (with a matrix in the HDF5 file);
    - ``gv_valid_connections``: the share that joins the two ends of a true bundle (with
      ``tracking_phase_ground_truth``).

    An epoch without the phase logs nothing for it.

    Parameters
    ----------
    model, experiments_path, experiment_name, batch_sampler, batch_loader, **kwargs
        As in :class:`DWIMLTrainerOneInput`, with a model that tracks: one with a direction getter.
    tracking_phase_frequency
        The phase takes place every N epochs, and after the last one.
    tracking_phase_nb_segments_init
        How many segments of each streamline are given; streamlines that have no more are left out.
    tracking_phase_max_batches
        How many validation batches to use, from the first; None: all those of the validation phase.
    tracking_phase_mask_group
        A volume group, of one feature: a mask, as :func:`dwiml.ops.masks.as_mask` understands it; streamlines end
        outside. None: each streamline ends at the length of the true one, if the model does not end it before.
    tracking_phase_ground_truth
        The folder of a validation subject's true bundles, as ``dwiml score`` reads it, ``{subject}`` standing for the
        subject's name: ``"phantom/subjects/{subject}"``. None: valid connections are not measured.
    tracking_phase_step_size, tracking_phase_theta, tracking_phase_max_length, tracking_phase_mask_interpolation
        As in :class:`dwiml.tracking.propagation.PropagationRules`; a step size of None is the model's.
    tracking_phase_eos_thresh
        As ``eos_stopping_thresh`` there.
    best_model_metric
        What the best model is chosen by, and what patience waits for: ``"valid_loss"`` or one of the names above; the
        lowest is the best, for the length ratio the nearest to 1, for valid connections the highest.

    Raises
    ------
    ValueError
        When there is no validation set, the model cannot track, or a parameter is out of range.
    """

    def __init__(
        self,
        model: TrackingModel,
        experiments_path: str | Path,
        experiment_name: str,
        batch_sampler: DWIMLBatchIDSampler,
        batch_loader: DWIMLBatchLoaderOneInput,
        *,
        tracking_phase_frequency: int = 1,
        tracking_phase_nb_segments_init: int = 1,
        tracking_phase_max_batches: int | None = None,
        tracking_phase_mask_group: str | None = None,
        tracking_phase_mask_interpolation: str = "nearest",
        tracking_phase_ground_truth: str | None = None,
        tracking_phase_step_size: float | None = None,
        tracking_phase_theta: float = 45.0,
        tracking_phase_max_length: float = 300.0,
        tracking_phase_eos_thresh: float | None = None,
        best_model_metric: str = "valid_loss",
        **kwargs: Any,
    ) -> None:
        self.tracking_phase_frequency = check_whole("tracking_phase_frequency", tracking_phase_frequency, low=1)
        self.nb_segments_init = check_whole("tracking_phase_nb_segments_init", tracking_phase_nb_segments_init, low=1)
        if tracking_phase_max_batches is not None:
            check_whole("tracking_phase_max_batches", tracking_phase_max_batches, low=1)
        check_choice("best_model_metric", best_model_metric, LOWER_IS_BETTER)
        self.tracking_phase_max_batches = tracking_phase_max_batches
        self.best_model_metric, self.mask_group = best_model_metric, tracking_phase_mask_group
        step_size = getattr(model, "step_size", None) if tracking_phase_step_size is None else tracking_phase_step_size
        if step_size is None:
            raise ValueError("The model has no step size of its own; give tracking_phase_step_size, in mm.")
        self.tracking_rules = PropagationRules(
            step_size=step_size,
            theta=tracking_phase_theta,
            max_length=tracking_phase_max_length,
            eos_stopping_thresh=tracking_phase_eos_thresh,
            mask_interpolation=tracking_phase_mask_interpolation,
        )
        check_tracks(model, "DWIMLTrainerOneInputWithGVPhase")
        super().__init__(model, experiments_path, experiment_name, batch_sampler, batch_loader, **kwargs)
        self._ground_truths: dict[str, GroundTruth] = {}
        self._check_data()
        if tracking_phase_ground_truth is not None:
            self._ground_truths = self._read_ground_truths(tracking_phase_ground_truth)
        self._check_best_model_metric()

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        """Track, if it is time, add the metrics to the epoch's, and end the epoch: see the parent's method."""
        epoch = self.position.epoch
        if (epoch + 1) % self.tracking_phase_frequency == 0 or epoch + 1 >= self.max_epochs:
            with self.profiler.part("tracking"), self._averaged_weights():
                measured = self.run_tracking_phase()
            if not measured and self.selection_metric is not None:
                raise ValueError(self._nothing_to_measure())
            if not measured:
                logger.warning(self._nothing_to_measure())
            metrics = metrics | measured
        super().finish_epoch(metrics)

    @property
    def selection_metric(self) -> str | None:
        """:attr:`best_model_metric`, where it is not the loss."""
        return None if self.best_model_metric == "valid_loss" else self.best_model_metric

    def selection_value(self, metrics: dict[str, float]) -> float | None:
        """Return how far :attr:`best_model_metric` is from its best; None in an epoch without the phase."""
        value = metrics.get(self.best_model_metric)
        return None if value is None else LOWER_IS_BETTER[self.best_model_metric](value)

    @torch.no_grad()
    def run_tracking_phase(self) -> dict[str, float]:
        """Track on from the first segments of the validation streamlines; return the metrics, by name.

        In a training, requests to stop are looked at before each step of the streamlines, and obeyed at once; those
        for a checkpoint, after each batch. The checkpoint keeps the epoch's training and validation: a resumed run
        begins with this phase.

        Raises
        ------
        TrainingInterrupted
            After a signal, or at the end of ``max_time``, once the checkpoint is written.
        """
        self.model.eval()
        at_start = generators_state(self.device)
        self.batch_sampler.set_position(
            "validation", 0, max_batches=self.tracking_phase_max_batches or self.max_batches["validation"]
        )
        fetcher = self.batch_loader.fetcher("validation", augment=False)
        sums: dict[str, tuple[float, int]] = {}
        for batch_ids in self.batch_sampler:
            targets, ids_per_subj = fetcher[batch_ids]
            try:
                found = self.tracking_phase_sums(targets.to(self.device), ids_per_subj)
            except PropagationStopped:
                # This process is asked to stop; the others hear of it now.
                found = {}
            self._obey_in_phase(at_start)
            for name, (total, nb) in found.items():
                before = sums.get(name, (0.0, 0))
                sums[name] = (before[0] + total, before[1] + nb)
        parts = self.ranks.gather(sums)
        means = {}
        for name in dict.fromkeys(name for part in parts for name in part):
            total = math.fsum(part[name][0] for part in parts if name in part)
            nb = sum(part[name][1] for part in parts if name in part)
            if nb:
                means[name] = total / nb
        return means

    def _obey_in_phase(self, generators_at_start: dict[str, Any]) -> None:
        """After a batch: write a checkpoint from which this phase begins again, and leave, if a rank wants it."""
        if not self._is_in_phase:
            return
        wanted = self._request() if self.ranks.alone else self.ranks.all_reduce(0, self._request()).request
        if wanted != NOTHING:
            with generators_as_they_were(generators_at_start, self.device):
                self._act_on(wanted)

    @property
    def _is_in_phase(self) -> bool:
        """Whether the phase is part of a training, and not called by itself."""
        return self.position.phase == GENERATION

    def tracking_phase_sums(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> dict[str, tuple[float, int]]:
        """Track on from the first segments of a batch, and measure: the method to override for other metrics.

        Parameters
        ----------
        targets
            The true streamlines, on the model's device, voxel space, corner origin.
        ids_per_subj
            For each subject index, a slice of the streamlines.

        Returns
        -------
        dict
            For each metric, the sum over streamlines and their number.
        """
        sums: dict[str, tuple[float, int]] = {}
        for subject, own in ids_per_subj.items():
            true = targets[own]
            # A point that is repeated has no length to be compared with.
            moves = streamline_lengths_mm(true, self._voxel_sizes(subject)).cpu() > 0
            long_enough = ((true.lengths > self.nb_segments_init + 1) & moves).nonzero()[:, 0]
            if not len(long_enough):
                continue
            true = true.select(long_enough)
            measured = self._measure(subject, true)
            for name, values in measured.items():
                before = sums.get(name, (0.0, 0))
                sums[name] = (before[0] + float(values.double().sum()), before[1] + len(values))
        return sums

    def _measure(self, subject: int, true: TensorSequence) -> dict[str, Tensor]:
        """Track on one subject; return the value of each metric for each streamline."""
        data = self.batch_loader.dataset.subset("validation")[subject]
        volume = data.volumes[self.batch_loader.input_group_name]
        sizes = self._voxel_sizes(subject)
        mask = None
        if self.mask_group is not None:
            mask = torch.from_numpy(self._mask_of(data).values.copy()).to(self.device)
        propagator = Propagator(
            self.model,
            lambda points: self.batch_loader.volumes.inputs_under(points, "validation", subject),
            self.tracking_rules,
            voxel_sizes=sizes,
            shape=volume.shape[:3],
            mask=mask,
            should_stop=lambda: self._is_in_phase and self._stop.requested,
        )
        made = propagator.propagate(
            true.head(self.nb_segments_init + 1),
            max_lengths=streamline_lengths_mm(true, sizes) if mask is None else None,
        )
        known = SubjectReference(
            sizes,
            data.streamlines[self.batch_loader.streamline_group_name].connectivity,
            self._ground_truths.get(data.subject_id),
        )
        left_mask = None if mask is None else made.reasons == MASK
        return measure_continued(made.streamlines, true, known, left_mask=left_mask)

    def _voxel_sizes(self, subject: int) -> Tensor:
        """Return those of a validation subject, (3,), mm, on the model's device."""
        volume = self.batch_loader.dataset.validation_set[subject].volumes[self.batch_loader.input_group_name]
        return torch.from_numpy(volume.voxel_sizes).to(self.device)

    def _nothing_to_measure(self) -> str:
        return (
            "The generation-validation phase has nothing to measure: no validation streamline has more than "
            f"{self.nb_segments_init + 1} points, as the model sees it, and a length; give a lower "
            "tracking_phase_nb_segments_init."
        )

    def _most_points(self) -> int:
        """Return the points of the longest validation streamline, as the model sees it (compressed ones: at most)."""
        group = self.batch_loader.streamline_group_name
        streamlines = [subject.streamlines[group] for subject in self.batch_loader.dataset.validation_set]
        if self.model.nb_points is not None:
            return int(self.model.nb_points)
        if self.model.step_size is not None:
            longest = max((float(each.lengths_mm.max(initial=0.0)) for each in streamlines), default=0.0)
            return round(longest / float(self.model.step_size)) + 1
        return max((int(each.lengths.max(initial=0)) for each in streamlines), default=0)

    def _check_data(self) -> None:
        if not self.has_validation:
            raise ValueError(
                "The generation-validation phase tracks on validation subjects, and there is none; add some to the "
                "HDF5 file, or use DWIMLTrainerOneInput."
            )
        if self._most_points() <= self.nb_segments_init + 1:
            raise ValueError(self._nothing_to_measure())
        self.model.check_tracking(self.tracking_rules.algo, self.tracking_rules.eos_stopping_thresh)
        if self.mask_group is not None:
            dataset = self.batch_loader.dataset
            dataset.check_volume_group(self.mask_group)
            if dataset.nb_features[self.mask_group] != 1:
                raise ValueError(
                    f"Volume group '{self.mask_group}' (tracking_phase_mask_group) holds "
                    f"{dataset.nb_features[self.mask_group]} features; a mask has one."
                )
            for subject in dataset.validation_set:
                if self.mask_group not in subject.volumes:
                    raise ValueError(
                        f"Volume group '{self.mask_group}' (tracking_phase_mask_group) was not loaded; give it to "
                        "dataset.load_data()."
                    )
                volume, other = subject.volumes[self.batch_loader.input_group_name], subject.volumes[self.mask_group]
                difference = volume.grid.difference(other.grid)
                if difference:
                    raise ValueError(
                        f"Subject '{subject.subject_id}': volume group '{self.mask_group}' (tracking_phase_mask_group) "
                        f"is not on the grid of the model's input: they have {difference}; recreate the HDF5 file."
                    )
                mask = self._mask_of(subject)
                if mask.note:
                    logger.warning("%s", mask.note)

    def _mask_of(self, subject: SubjectData) -> Mask:
        """Return the tracking mask of a validation subject, as ``dwiml track`` understands it."""
        assert self.mask_group is not None
        values = subject.volumes[self.mask_group].as_tensor()[..., 0].numpy()
        name = f"Volume group '{self.mask_group}' (tracking_phase_mask_group) of subject '{subject.subject_id}'"
        return as_mask(values, name, threshold=self.tracking_rules.mask_threshold)

    def _check_best_model_metric(self) -> None:
        """Refuse a metric that would never be measured."""
        group = self.batch_loader.streamline_group_name
        subjects = self.batch_loader.dataset.validation_set
        needed = {
            LEFT_MASK: (self.mask_group is not None, "tracking_phase_mask_group"),
            VALID_CONNECTIONS: (bool(self._ground_truths), "tracking_phase_ground_truth"),
            INVALID_CONNECTIONS: (
                all(subject.streamlines[group].has_connectivity for subject in subjects),
                f"a connectivity matrix of each validation subject in the HDF5 file's group '{group}'",
            ),
        }
        there, what = needed.get(self.best_model_metric, (True, ""))
        if not there:
            raise ValueError(f"best_model_metric {self.best_model_metric!r} needs {what}.")

    def _read_ground_truths(self, folder: str) -> dict[str, GroundTruth]:
        """Read the true bundles of each validation subject, which must be on its grid."""
        truths = {}
        for subject in self.batch_loader.dataset.validation_set:
            truth = read_ground_truth(folder.replace("{subject}", subject.subject_id))
            volume = subject.volumes[self.batch_loader.input_group_name]
            difference = truth.grid.difference(volume.grid)
            if difference:
                raise ValueError(
                    f"The ground truth of subject '{subject.subject_id}' is not on the grid of its volume in the HDF5 "
                    f"file: they have {difference}; bring it there."
                )
            truths[subject.subject_id] = truth
        return truths
