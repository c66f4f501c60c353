"""Track with a trained model in one call."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dwiml.arguments import check_flags
from dwiml.hdf5.stored.collection import HDF5Files, files_of
from dwiml.ops.spaces import from_vox_corner
from dwiml.tracking.sources import TrackingData, is_image
from dwiml.tractograms.writing.writer import TractogramWriter
from dwiml.trained.ensemble import check_same_inputs, combined, load_classifier, load_models
from dwiml.trained.experiment import TrainedExperiment
from dwiml.trained.outputs import check_tracking_outputs
from dwiml.trained.sidecar import tracking_files, tracking_sidecar
from dwiml.trained.tracking_data import read_images, read_subject
from dwiml.trained.tracking_run import (
    TrackingKeywords,
    prepare_tracking,
    saved_data,
    track_groups,
    tracking_acceptance,
    tracking_rules,
)

if TYPE_CHECKING:
    from dipy.io.stateful_tractogram import StatefulTractogram
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from dwiml.models.protocols import ClassifierModel, TrackingModel
    from dwiml.tractograms.grid import Grid


def track(
    model: str | os.PathLike[str] | TrainedExperiment | TrackingModel | Sequence[Any],
    subject: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | TrackingData,
    *,
    tracking_mask: str | os.PathLike[str] | None = None,
    seeding_mask: str | os.PathLike[str] | None = None,
    model_class: str | type[Any] | None = None,
    hdf5_file: HDF5Files | None = None,
    standardization: str | None = None,
    standardize_like: str | os.PathLike[str] | None = None,
    std_mask: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    classifier: str | os.PathLike[str] | TrainedExperiment | ClassifierModel | None = None,
    out: str | os.PathLike[str] | None = None,
    compress: float | None = None,
    save_seeds: bool = False,
    save_plausibility: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[int], object] | None = None,
    sidecar: bool = False,
    **settings: Unpack[TrackingKeywords],
) -> StatefulTractogram:
    """Track with a trained model, as ``dwiml track`` does.

    Parameters
    ----------
    model
        The experiment folder, or the value of :func:`dwiml.load_experiment`. Or any model that tracks
        (:class:`dwiml.TrackingModel`), with data in `subject`. A list of several of these is an ensemble
        (:class:`dwiml.tracking.ensemble.TrackingEnsemble`); the data are those of its first experiment.
    subject
        A subject of the experiment's HDF5 file; or image files of the model's input, in the order of the training; or
        data that were read by :mod:`dwiml.tracking.sources`.
    tracking_mask
        Where streamlines may go: a volume group of the HDF5 file, or an image file. Required, unless `subject` is data.
    seeding_mask
        Where streamlines start; None for the tracking mask.
    model_class
        As in :func:`dwiml.load_experiment`; only if `model` is a folder.
    hdf5_file
        The HDF5 file, a folder of such files, or a list; None for the recorded files.
    standardization
        How to standardize images: ``"all"``, ``"independent"``, ``"per_file"`` or ``"none"``; None for the way that the
        experiment records.
    standardize_like
        Standardize images as the data of this other experiment.
    std_mask
        Mask file, or several, in which the mean and standard deviation of images are computed.
    classifier
        The experiment, or the model, of a classifier of streamlines (:class:`dwiml.StreamlineClassifierModel`) that was
        trained on the same input: only the streamlines that it finds plausible are kept. None: all are kept. If its
        class is your own, give the value of :func:`dwiml.load_experiment`.
    out
        Tractogram to write: .trk, .tck or .trx; None to write none.
    compress
        Compress the streamlines that are written with this tolerance, in mm; None keeps all points.
    save_seeds
        Keep the seed of each streamline as data per streamline ``"seeds"``: voxel space, corner origin.
    save_plausibility
        Keep the probability that each streamline is plausible, according to the classifier, as data per streamline
        ``"plausibility"``.
    overwrite
        Whether `out` may be replaced, also by an empty tractogram (with a warning) if there are no streamlines.
    on_progress
        Function that is called with the number of seeds done since its last call.
    sidecar
        Also write a JSON file beside `out` that says how it was created (``out.json`` for ``out.trk``).
    **settings
        ``nb_seeds`` in total or ``seeds_per_voxel`` (default 1), ``seeds_at`` (``"random"`` or ``"center"``) and
        ``seeding`` (``"volume"`` or ``"interface"``) of :class:`~dwiml.tracking.seeds.Seeds`; the parameters of
        :class:`~dwiml.tracking.propagation.PropagationRules`, with the step size of the model by default; and
        ``min_length``, ``forward_only`` and ``simultaneous`` of :class:`~dwiml.tracking.tracker.Tracker`; with a
        classifier, ``min_plausibility`` and ``max_attempts`` of :class:`~dwiml.tracking.acceptance.Acceptance`.

    Returns
    -------
    dipy.io.stateful_tractogram.StatefulTractogram
        The streamlines, in rasmm, center origin.

    Raises
    ------
    TypeError
        If a keyword is unknown, `model_class` is given with a loaded model, or `model` is a model and `subject` is not
        data.
    FileExistsError, FileNotFoundError, ValueError
        If something is missing, invalid or without effect, the models cannot form an ensemble, or `out` exists, is an
        input or lies in an experiment that is used.
    """
    flags = {"save_seeds": save_seeds, "save_plausibility": save_plausibility}
    check_flags(inspect.signature(track).bind(model, subject, **flags, overwrite=overwrite, sidecar=sidecar))
    loaded = load_models(model, model_class)
    experiments = [each for each in loaded if isinstance(each, TrainedExperiment)]
    trained_classifier = load_classifier(classifier)
    used = [*experiments, *([trained_classifier] if isinstance(trained_classifier, TrainedExperiment) else [])]
    if not isinstance(subject, TrackingData):
        check_same_inputs([each.parameters for each in used], [each.path for each in used])
    own = combined([each.model for each in experiments] or loaded, antipodal=bool(settings.get("antipodal", False)))
    rules = tracking_rules(own, settings)
    acceptance = tracking_acceptance(getattr(trained_classifier, "model", trained_classifier), settings, rules)
    saved = saved_data(acceptance, **flags)
    of_images = {"standardization": standardization, "standardize_like": standardize_like, "std_mask": std_mask}
    masks = {"tracking_mask": tracking_mask, "seeding_mask": seeding_mask, "mask_threshold": rules.mask_threshold}
    if sidecar and (out is None or isinstance(subject, TrackingData)):
        what = "the tractogram is not written: give out" if out is None else "data that were read have no file names"
        raise ValueError(f"sidecar=True is not possible, because {what}.")
    if out is not None:
        check_tracking_outputs(
            {"out": out},
            inputs=_flat(subject, std_mask, tracking_mask, seeding_mask, files_of(hdf5_file) if hdf5_file else None),
            experiments=[*(each.path for each in used), standardize_like],
            overwrite=overwrite,
            sidecar=sidecar,
        )
    data = _data(experiments[0] if experiments else None, subject, masks, of_images, hdf5_file)
    tracker, seeds = prepare_tracking(own, data, rules, settings, acceptance)
    options: dict[str, Any] = {"saved": list(saved), "on_progress": on_progress}
    if out is None:
        return _stateful(list(track_groups(tracker, seeds, **options)), data.grid, saved)
    content: dict[str, Any] | None = None
    if sidecar and experiments and tracking_mask is not None:
        files = tracking_files(
            experiments[0].path,
            experiments[0].parameters,
            _images_or_name(subject),
            tracking_mask=tracking_mask,
            seeding_mask=seeding_mask,
            hdf5_file=hdf5_file,
            std_mask=std_mask,
        )
        content = tracking_sidecar(
            tracker,
            seeds,
            files,
            experiments=[each.path for each in experiments],
            model=own,
            classifier=used[-1].path if len(used) > len(experiments) else None,
            compress=compress,
        )
    writer = TractogramWriter(
        Path(out), grid=data.grid, data_per_streamline=saved, compress=compress, overwrite=overwrite, sidecar=content
    )
    with writer:
        groups = list(track_groups(tracker, seeds, writer, **options))
    return _stateful(groups, data.grid, saved)


def _images_or_name(subject: Any) -> Any:
    """Return the image files in a list, or the name of a subject."""
    return [subject] if isinstance(subject, (str, os.PathLike)) and is_image(os.fspath(subject)) else subject


def _flat(*given: Any) -> list[Any]:
    """Return values, and the items of those that are sequences, in one list."""
    return [item for each in given for item in (each if isinstance(each, (list, tuple)) else [each])]


def _data(
    trained: TrainedExperiment | None,
    subject: Any,
    masks: dict[str, Any],
    of_images: dict[str, Any],
    hdf5_file: HDF5Files | None,
) -> TrackingData:
    """Return the data that the arguments of :func:`track` name."""
    if isinstance(subject, TrackingData):
        # The threshold always has a value.
        others = {**masks, **of_images, "hdf5_file": hdf5_file, "mask_threshold": None}
        unused = [name for name, value in others.items() if value]
        if unused:
            raise ValueError(f"{unused[0]} has no effect on data that were read already: give it when they are read.")
        return subject
    if trained is None:
        raise TypeError(
            "A model alone tracks on data of dwiml.tracking.sources.read_from_hdf5 or read_from_images; give these as "
            "subject, or an experiment as model."
        )
    if masks["tracking_mask"] is None:
        raise ValueError("tracking_mask is required: a volume group of the HDF5 file, or an image file.")
    known: dict[str, Any] = {**masks, "hdf5_file": hdf5_file}
    images = _images_or_name(subject)
    if isinstance(images, str):
        unused = [name for name, value in of_images.items() if value]
        if unused:
            raise ValueError(f"{unused[0]} is for images: the subjects of an HDF5 file are standardized already.")
        return read_subject(trained.path, trained.parameters, images, **known)
    return read_images(trained.path, trained.parameters, images, **known, **of_images)


def _stateful(
    groups: list[tuple[NDArray[np.float32], NDArray[np.int64], dict[str, NDArray[np.float32]]]],
    grid: Grid,
    saved: Mapping[str, int],
) -> StatefulTractogram:
    """Return streamlines in voxel space, corner origin, as a tractogram of DIPY in rasmm, center origin."""
    from dipy.io.stateful_tractogram import Origin, Space, StatefulTractogram

    lines: list[NDArray[np.float32]] = []
    for points, lengths, _ in groups:
        rasmm = from_vox_corner(
            points, space="rasmm", origin="center", affine=grid.affine, voxel_sizes=grid.voxel_sizes
        )
        lines += np.split(rasmm, np.cumsum(lengths)[:-1]) if len(lengths) else []
    data = {name: np.concatenate([each[name] for *_, each in groups]) for name in saved} if lines else None
    reference = (grid.affine, grid.shape, grid.voxel_sizes, grid.voxel_order)
    return StatefulTractogram(lines, reference, Space.RASMM, origin=Origin.NIFTI, data_per_streamline=data or None)
