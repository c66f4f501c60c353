"""The sidecar of a tractogram that a trained model tracked: seeds, propagation, termination, acceptance."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dwiml.hdf5.stored.collection import HDF5Files, file_of_subject
from dwiml.tracking.ensemble import TrackingEnsemble
from dwiml.tracking.seeds import Seeds
from dwiml.tracking.sources import is_image
from dwiml.tracking.tracker import Tracker
from dwiml.tractograms.writing.sidecar import ACCEPTANCE, describe
from dwiml.trained.tracking_data import input_group_of
from dwiml.training.experiment.parameters import find_data

PathLike = str | os.PathLike[str]

_ALGORITHMS = {
    "det": "Deterministic: at each step, the most likely direction according to a trained model.",
    "prob": "Probabilistic: at each step, a direction drawn from the distribution that a trained model predicts, among "
    "those within AnglePerStep of the last step.",
}
_ALGORITHMS_OF_ENSEMBLES = {
    "det": "Deterministic: at each step, the mean of the most likely directions according to several trained models.",
    "prob": "Probabilistic: at each step, a direction drawn from the distribution that one of several trained models, "
    "drawn at random, predicts, among those within AnglePerStep of the last step.",
}


@dataclass(frozen=True)
class TrackingFiles:
    """The files that were used to track; a group of an HDF5 file is ``FILE.hdf5:/SUBJECT/GROUP``.

    Attributes
    ----------
    inputs
        Input of the model: a volume group, or images.
    tracking_mask, seeding_mask
        The masks.
    std_masks
        Masks in which images were standardized.
    """

    inputs: tuple[Path, ...]
    tracking_mask: Path
    seeding_mask: Path
    std_masks: tuple[Path, ...] = ()


def tracking_files(
    experiment: str | Path,
    recorded: Mapping[str, Any],
    subject: str | Sequence[PathLike],
    *,
    tracking_mask: PathLike,
    seeding_mask: PathLike | None = None,
    hdf5_file: HDF5Files | None = None,
    std_mask: PathLike | Sequence[PathLike] = (),
) -> TrackingFiles:
    """Return the files that are used to track.

    Parameters
    ----------
    experiment
        The experiment folder.
    recorded
        Content of its ``parameters.json``.
    subject
        Name of a subject of the HDF5 file, or image files.
    tracking_mask, seeding_mask
        A volume group of the HDF5 file, or an image file. `seeding_mask` None: the tracking mask.
    hdf5_file
        The HDF5 file, a folder of files, or a list of them; None for the recorded ones.
    std_mask
        One or more masks in which images are standardized.
    """
    masks = (std_mask,) if isinstance(std_mask, (str, os.PathLike)) else std_mask
    std_masks = tuple(map(Path, masks))
    seeding_mask = tracking_mask if seeding_mask is None else seeding_mask
    inputs = input_files(experiment, recorded, subject, hdf5_file=hdf5_file)
    if not isinstance(subject, str):
        return TrackingFiles(inputs, Path(tracking_mask), Path(seeding_mask), std_masks)
    groups = inputs[0].parent

    def place(mask: PathLike) -> Path:
        return Path(mask) if is_image(os.fspath(mask)) else Path(groups, mask)

    return TrackingFiles(inputs, place(tracking_mask), place(seeding_mask), std_masks)


def input_files(
    experiment: str | Path,
    recorded: Mapping[str, Any],
    subject: str | Sequence[PathLike],
    *,
    hdf5_file: HDF5Files | None = None,
) -> tuple[Path, ...]:
    """Return the images of a subject, or its volume group as ``FILE.hdf5:/SUBJECT/GROUP``.

    Parameters
    ----------
    experiment, recorded, subject, hdf5_file
        As in :func:`tracking_files`.
    """
    if not isinstance(subject, str):
        return tuple(map(Path, subject))
    file = file_of_subject(find_data(recorded, experiment, hdf5_file), subject)
    return (Path(f"{file}:/{subject}", input_group_of(recorded, experiment)),)


def tracking_sidecar(
    tracker: Tracker,
    seeds: Seeds,
    files: TrackingFiles,
    *,
    experiments: Sequence[PathLike],
    model: Any,
    classifier: PathLike | None = None,
    compress: float | None = None,
) -> dict[str, Any]:
    """Return the content of the sidecar of a tracked tractogram.

    Parameters
    ----------
    tracker, seeds
        Values of :func:`dwiml.trained.tracking.prepare_tracking`.
    files
        Value of :func:`tracking_files`.
    experiments
        The experiment folder, or those of an ensemble.
    model
        The trained model, or the ensemble.
    classifier
        The experiment of the classifier that decides which streamlines are accepted; None for none.
    compress
        Tolerance of the compression of the streamlines, in mm; None if they keep all points.

    Returns
    -------
    dict
        See :func:`dwiml.tractograms.writing.sidecar.write_sidecar`.
    """
    rules, name = tracker.rules, type(model).__name__
    members = [type(each).__name__ for each in model.models] if isinstance(model, TrackingEnsemble) else [name]
    more = {
        "Name": name,
        "StreamlineSeeding": {"Sources": [_seeding(seeds, files.seeding_mask, tracker.forward_only)]},
        "StreamlinePropagation": {
            "Algorithm": {"Name": name, "Description": _algorithm(rules.algo, len(members))},
            "Interpolation": "Linear",
            # 0 stands for linear interpolation in the draft.
            "InterpolationOrder": 0,
            "IntegrationOrder": 1,
            "Source": files.inputs[0] if len(files.inputs) == 1 else files.inputs,
            "StepSize": rules.step_size,
            "AnglePerStep": rules.theta,
        },
        "StreamlineTermination": {
            "AnglePerStep": rules.theta,
            "Masks": [files.tracking_mask],
            "MaximumLength": rules.max_length,
        },
        ACCEPTANCE: {"MinimumLength": tracker.min_length, **_plausibility(tracker, classifier)},
        "StreamlineReconstructionDensity": {"Seeds": len(seeds)},
        "dwiml": {
            "model": members[0] if len(members) == 1 else members,
            "experiment": Path(experiments[0]) if len(experiments) == 1 else tuple(map(Path, experiments)),
            **asdict(rules),
            "seeds_at": seeds.placement,
            "seeding": seeds.seeding,
            "min_length": tracker.min_length,
            "forward_only": tracker.forward_only,
            "compress": compress,
        },
    }
    used = [*experiments, *([] if classifier is None else [classifier])]
    masks = dict.fromkeys((files.tracking_mask, files.seeding_mask, *files.std_masks))
    by = "a trained model" if len(members) == 1 else f"an ensemble of {len(members)} trained models"
    return describe(f"Streamlines tracked by {by}.", [*files.inputs, *masks, *used], more)


def _plausibility(tracker: Tracker, classifier: PathLike | None) -> dict[str, Any]:
    """Return the criterion of the classifier, which is not part of BEP046; empty without one."""
    if tracker.acceptance is None:
        return {}
    source = {} if classifier is None else {"Classifier": Path(classifier)}
    rules = {"Minimum": tracker.acceptance.min_plausibility, "MaximumAttempts": tracker.acceptance.max_attempts}
    return {"Plausibility": {**source, **rules}}


def _algorithm(algo: str, nb_models: int) -> str:
    """Return how the direction of each step is chosen."""
    return _ALGORITHMS[algo] if nb_models == 1 else _ALGORITHMS_OF_ENSEMBLES[algo]


def _seeding(seeds: Seeds, mask: Path, forward_only: bool) -> dict[str, Any]:
    """Return how the seeds were placed, by the names of BEP046; ``SourceRegion`` is not part of it."""
    source: dict[str, Any] = {"Source": mask}
    if seeds.seeding == "interface":
        source["SourceRegion"] = "Interface"
    if seeds.per_voxel is None:
        return {"Type": "Random", **source, "Unidirectional": forward_only}
    kind = {"random": "RandomPerElement", "center": "CountPerElement"}[seeds.placement]
    return {"Type": kind, **source, "SeedsPerElement": seeds.per_voxel, "Unidirectional": forward_only}
