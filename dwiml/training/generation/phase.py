"""The trainer with a generation-validation phase, in which the model tracks and its streamlines are evaluated."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from dwiml.batching.fetcher import BatchSlices
from dwiml.batching.lengths import resampling_of
from dwiml.batching.loader import DWIMLBatchLoaderOneInput
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.data.dataset import SubjectData
from dwiml.models.base import MainModelAbstract
from dwiml.models.protocols import TrackingModel, check_tracks
from dwiml.ops.directions import streamline_lengths_mm
from dwiml.ops.masks import Mask
from dwiml.ops.sequences import TensorSequence
from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.ground_truth_files import read_ground_truth
from dwiml.tracking.mask_groups import mask_of_group
from dwiml.tracking.propagation import MASK, PropagationRules, PropagationStopped, Propagator, check_max_len
from dwiml.tractograms.grid import HOW_TO_RESAMPLE
from dwiml.training.cluster.stopping import NOTHING
from dwiml.training.epoch import handle_requests
from dwiml.training.generation.measures import SubjectReference, measure_continued
from dwiml.training.generation.settings import GVPhaseKeywords, TrackingPhaseSettings
from dwiml.training.one_input import DWIMLTrainerOneInput
from dwiml.training.reporting.metrics import (
    DIFFERENCE_FROM_BEST,
    INVALID_CONNECTIONS,
    LEFT_MASK,
    VALID_CONNECTIONS,
    VALID_LOSS,
)
from dwiml.training.reproducibility import generators_state, temporary_generators
from dwiml.training.settings import TrainerSettings, split_keywords
from dwiml.training.state import GENERATION

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)


class DWIMLTrainerOneInputWithGVPhase(DWIMLTrainerOneInput):
    """A trainer that also tracks with the model every few epochs, and evaluates the streamlines.

    In the generation-validation phase, the model receives the first segments of the validation streamlines and
    continues them step by step from its own points. The log then has these means over the streamlines:

    - ``gv_endpoint_distance_mm``: distance from the last point to the end of the true streamline, in mm;
    - ``gv_length_ratio``: length divided by that of the true streamline;
    - ``gv_left_mask``: fraction that left the mask too early, before 95% of the true length (with
      ``tracking_phase_mask_group``);
    - ``gv_invalid_connections``: fraction whose two ends lie in regions that are not connected in the subject's
      connectivity matrix (with a matrix in the HDF5 file);
    - ``gv_valid_connections``: fraction that connects the two ends of a true bundle (with
      ``tracking_phase_ground_truth``).

    An epoch without the phase logs none of them.

    Parameters
    ----------
    model, experiments_path, experiment_name, batch_sampler, batch_loader
        As in :class:`DWIMLTrainerOneInput`, with a model that tracks: one with a direction getter.
    **settings
        All other keywords: the parameters of :class:`~dwiml.training.generation.settings.TrackingPhaseSettings` and of
        :class:`~dwiml.training.settings.TrainerSettings`. Python's ``help`` of these two classes lists their meanings
        and defaults.

    Raises
    ------
    ValueError
        If there is no validation set, the model cannot track, or a parameter is out of range; and as in
        :class:`DWIMLTrainer`.
    """

    settings_classes = (TrackingPhaseSettings, TrainerSettings)

    model: Any  # the model, which also tracks
    tracking_phase: TrackingPhaseSettings  # the keywords of the phase
    tracking_rules: PropagationRules  # how streamlines are propagated in it
    _ground_truths: dict[str, GroundTruth]  # the true bundles of validation subjects, by name

    def __init__(
        self,
        model: TrackingModel,
        experiments_path: str | Path,
        experiment_name: str,
        batch_sampler: DWIMLBatchIDSampler,
        batch_loader: DWIMLBatchLoaderOneInput,
        **settings: Unpack[GVPhaseKeywords],
    ) -> None:
        given, others = split_keywords(TrackingPhaseSettings, settings)
        self._record_part(TrackingPhaseSettings, given)
        self.tracking_phase = TrackingPhaseSettings(**given)
        self.tracking_rules = self.tracking_phase.rules(getattr(model, "step_size", None))
        check_tracks(model, "DWIMLTrainerOneInputWithGVPhase")
        check_max_len(model, self.tracking_rules)
        # The superclass checks that it is one.
        main = cast(MainModelAbstract, model)
        super().__init__(main, experiments_path, experiment_name, batch_sampler, batch_loader, **others)
        self._ground_truths = {}
        self._check_data()
        if self.tracking_phase.tracking_phase_ground_truth is not None:
            self._ground_truths = self._read_ground_truths(self.tracking_phase.tracking_phase_ground_truth)
        self._check_best_model_metric()

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        """Run the phase if it is due, add its metrics, and end the epoch (see :meth:`DWIMLTrainer.finish_epoch`)."""
        epoch = self.position.epoch
        if (epoch + 1) % self.tracking_phase.tracking_phase_frequency == 0 or epoch + 1 >= self.settings.max_epochs:
            with self.profiler.part("tracking"), self.averaged_weights():
                measured = self.run_tracking_phase()
            if not measured and (self.selection_metric or "").startswith("gv_"):
                raise ValueError(self._nothing_to_measure())
            if not measured:
                logger.warning(self._nothing_to_measure())
            metrics = metrics | measured
        super().finish_epoch(metrics)

    @property
    def _nb_segments_init(self) -> int:
        return self.tracking_phase.tracking_phase_nb_segments_init

    @property
    def _mask_group(self) -> str | None:
        return self.tracking_phase.tracking_phase_mask_group

    @property
    def selection_metric(self) -> str | None:
        """``best_model_metric``; None for the loss."""
        metric = self.tracking_phase.best_model_metric
        return None if metric == VALID_LOSS else metric

    def selection_value(self, metrics: dict[str, float]) -> float | None:
        """Return the difference of the metric from its best value; None in an epoch without the phase."""
        metric = self.selection_metric
        if metric is None or not metric.startswith("gv_"):
            return super().selection_value(metrics)
        return DIFFERENCE_FROM_BEST.get(metric, float)(metrics[metric]) if metric in metrics else None

    @torch.no_grad()
    def run_tracking_phase(self) -> dict[str, float]:
        """Continue the first segments of the validation streamlines; return the metrics, by name.

        During a training, requests to stop are handled before each step of the streamlines, and requests for a
        checkpoint after each batch. The checkpoint keeps the training and validation of the epoch: a resumed run starts
        with this phase.

        Raises
        ------
        TrainingInterrupted
            If a signal was received or ``max_time`` is over; raised once the checkpoint is written.
        """
        self.model.eval()
        at_start = generators_state(self.device)
        limit = self.tracking_phase.tracking_phase_max_batches or self.settings.max_batches("validation")
        self.batch_sampler.set_position("validation", 0, max_batches=limit)
        fetcher = self.batch_loader.fetcher("validation", augment=False)
        sums: dict[str, tuple[float, int]] = {}
        for batch_ids in self.batch_sampler:
            targets, ids_per_subj = fetcher[batch_ids]
            try:
                found = self.tracking_phase_sums(targets.to(self.device), ids_per_subj)
            except PropagationStopped:
                # This process is asked to stop; the others are informed below.
                found = {}
            self._handle_requests_in_phase(at_start)
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

    def _handle_requests_in_phase(self, generators_at_start: dict[str, Any]) -> None:
        """After a batch, handle the requests of all ranks; a checkpoint resumes at the start of this phase."""
        if not self._is_in_phase:
            return
        wanted = self.ranks.all_reduce(0, self.requests.wanted).request
        if wanted == NOTHING:
            return
        with temporary_generators(generators_at_start, self.device):
            handle_requests(self, wanted)

    @property
    def _is_in_phase(self) -> bool:
        """Whether the phase is run by a training, rather than called directly."""
        return self.position.phase == GENERATION

    def tracking_phase_sums(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> dict[str, tuple[float, int]]:
        """Continue the first segments of a batch, and evaluate the result. Override this method for other metrics.

        Parameters
        ----------
        targets
            The true streamlines, on the model's device: points of shape (total_points, 3), float32, voxel space, corner
            origin.
        ids_per_subj
            Slice of the streamlines of each subject, by subject index.

        Returns
        -------
        dict
            For each metric, the sum over streamlines and their number.
        """
        sums: dict[str, tuple[float, int]] = {}
        for subject, own in ids_per_subj.items():
            true = targets[own]
            # The length ratio is undefined for a streamline of length 0.
            moves = streamline_lengths_mm(true, self._voxel_sizes(subject)).cpu() > 0
            long_enough = ((true.lengths > self._nb_segments_init + 1) & moves).nonzero()[:, 0]
            if not len(long_enough):
                continue
            true = true.select(long_enough)
            measured = self._measure(subject, true)
            for name, values in measured.items():
                before = sums.get(name, (0.0, 0))
                sums[name] = (before[0] + float(values.double().sum()), before[1] + len(values))
        return sums

    def _measure(self, subject: int, true: TensorSequence) -> dict[str, Tensor]:
        """Track on one subject; return the value of each metric for each streamline, of shape (S,)."""
        data = self.batch_loader.dataset.validation_set.data_of(subject)
        volume = data.volumes[self.batch_loader.input_group_name]
        sizes = self._voxel_sizes(subject)
        mask = None
        if self._mask_group is not None:
            mask = torch.from_numpy(self._mask_of(data).values.copy()).to(self.device)
        propagator = Propagator(
            self.model,
            lambda points: self.batch_loader.inputs_at(points, "validation", subject),
            self.tracking_rules,
            voxel_sizes=sizes,
            shape=volume.grid.shape,
            mask=mask,
            should_stop=lambda: self._is_in_phase and self.requests.requested,
        )
        made = propagator.propagate(
            true.head(self._nb_segments_init + 1),
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
        """Return the voxel sizes of a validation subject, shape (3,), in mm, on the model's device."""
        data = self.batch_loader.dataset.validation_set.data_of(subject)
        return torch.from_numpy(data.streamlines[self.batch_loader.streamline_group_name].voxel_sizes).to(self.device)

    def _nothing_to_measure(self) -> str:
        return (
            "The generation-validation phase has nothing to measure: no validation streamline has more than "
            f"{self._nb_segments_init + 1} points (after resampling) and a positive length; give a lower "
            "tracking_phase_nb_segments_init."
        )

    def _most_points(self) -> int:
        """Return the number of points of the longest validation streamline after resampling (an upper bound)."""
        group = self.batch_loader.streamline_group_name
        streamlines = [subject.streamlines[group] for subject in self.batch_loader.dataset.validation_set]
        after = resampling_of(self.model).nb_points_after
        return max((int(after(each.lengths, each.lengths_mm).max(initial=0)) for each in streamlines), default=0)

    def _check_data(self) -> None:
        if not self.has_validation:
            raise ValueError(
                "The generation-validation phase needs validation subjects, and there are none; add some to the HDF5 "
                "file, or use DWIMLTrainerOneInput."
            )
        if self._most_points() <= self._nb_segments_init + 1:
            raise ValueError(self._nothing_to_measure())
        self.model.check_tracking(self.tracking_rules.algo, self.tracking_rules.eos_stopping_thresh)
        if self._mask_group is not None:
            dataset = self.batch_loader.dataset
            dataset.check_volume_group(self._mask_group)
            for subject in dataset.validation_set:
                mask = self._mask_of(subject)
                if mask.note:
                    logger.warning("%s", mask.note)

    def _mask_of(self, subject: SubjectData) -> Mask:
        """Return the tracking mask of a validation subject, interpreted as in ``dwiml track``."""
        assert self._mask_group is not None
        return mask_of_group(
            subject,
            self._mask_group,
            self.batch_loader.input_group_name,
            parameter="tracking_phase_mask_group",
            threshold=self.tracking_rules.mask_threshold,
        )

    def _check_best_model_metric(self) -> None:
        """Raise ValueError if the metric would never be measured."""
        group = self.batch_loader.streamline_group_name
        subjects = self.batch_loader.dataset.validation_set
        needed = {
            LEFT_MASK: (self._mask_group is not None, "tracking_phase_mask_group"),
            VALID_CONNECTIONS: (bool(self._ground_truths), "tracking_phase_ground_truth"),
            INVALID_CONNECTIONS: (
                all(subject.streamlines[group].has_connectivity for subject in subjects),
                f"a connectivity matrix of each validation subject in the HDF5 file's group '{group}'",
            ),
        }
        available, requirement = needed.get(self.tracking_phase.best_model_metric, (True, ""))
        if not available:
            raise ValueError(f"best_model_metric {self.tracking_phase.best_model_metric!r} needs {requirement}.")

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
                    f"file: they have {difference}; resample the ground truth to this grid, {HOW_TO_RESAMPLE}."
                )
            truths[subject.subject_id] = truth
        return truths
