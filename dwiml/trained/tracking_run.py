"""What tracks, from where, and the groups of streamlines that it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypedDict

from dwiml.arguments import check_choice, check_whole, unknown_parameter
from dwiml.models.protocols import check_tracks
from dwiml.tracking.acceptance import Acceptance
from dwiml.tracking.propagation import PropagationRules
from dwiml.tracking.seeds import PLACEMENTS, SEEDINGS, Seeds
from dwiml.tracking.tracker import Tracker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dwiml.models.protocols import ClassifierModel, TrackingModel
    from dwiml.tracking.sources import TrackingData
    from dwiml.tractograms.writing.writer import TractogramWriter

_RULES = tuple(each.name for each in fields(PropagationRules))
_OF_TRACKER = ("min_length", "forward_only", "simultaneous")
_OF_ACCEPTANCE = {each.name: each.default for each in fields(Acceptance) if each.name != "classifier"}
SEEDS, PLAUSIBILITY = "seeds", "plausibility"
"""Names of the data per streamline that can be saved."""


class TrackingKeywords(TypedDict, total=False):
    """Keywords of :func:`track` that are those of the seeds, the rules, the tracker and the acceptance."""

    seeds_per_voxel: int | None
    nb_seeds: int | None
    seeds_at: str
    seeding: str
    step_size: float | None
    theta: float
    max_length: float
    algo: str
    seed: int
    eos_stopping_thresh: float | None
    mask_threshold: float
    mask_interpolation: str
    antipodal: bool
    min_length: float
    forward_only: bool
    simultaneous: int | None
    min_plausibility: float
    max_attempts: int


def tracking_rules(model: TrackingModel, settings: Mapping[str, Any]) -> PropagationRules:
    """Return how streamlines are propagated.

    Parameters
    ----------
    model
        The trained model, for the default step size.
    settings
        :class:`TrackingKeywords`.

    Raises
    ------
    TypeError
        If a keyword is unknown; similar names are suggested.
    ValueError
        If the model cannot track, a number is out of range, or the model has no step size and none is given.
    """
    for name in settings:
        if name not in TrackingKeywords.__annotations__:
            raise unknown_parameter("track", name, TrackingKeywords.__annotations__)
    check_tracks(model, "Tracking")
    step_size = settings.get("step_size")
    step_size = getattr(model, "step_size", None) if step_size is None else step_size
    if step_size is None:
        raise ValueError("The model was trained without a step size; give step_size, in mm.")
    max_length = settings.get("max_length", PropagationRules.max_length)
    if step_size > max_length:
        raise ValueError(
            f"step_size ({step_size:g} mm) is above max_length ({max_length:g} mm): no step could be made."
        )
    given = {name: settings[name] for name in _RULES if name in settings}
    return PropagationRules(**{**given, "step_size": step_size})


def prepare_tracking(
    model: TrackingModel,
    data: TrackingData,
    rules: PropagationRules,
    settings: Mapping[str, Any],
    acceptance: Acceptance | None = None,
) -> tuple[Tracker, Seeds]:
    """Return what tracks, and from where.

    Parameters
    ----------
    model
        The trained model.
    data
        The data to track on.
    rules
        Value of :func:`tracking_rules`.
    settings
        :class:`TrackingKeywords`.
    acceptance
        Value of :func:`tracking_acceptance`.

    Raises
    ------
    ValueError
        If a number is out of range, or the model or the classifier cannot read these data.
    """
    own = {name: settings[name] for name in _OF_TRACKER if name in settings}
    per_voxel, total = settings.get("seeds_per_voxel"), settings.get("nb_seeds")
    for name in ("seeds_per_voxel", "nb_seeds"):
        if settings.get(name) is not None:
            check_whole(name, settings[name], low=1)
    if per_voxel is None and total is None:
        per_voxel = 1
    placement = check_choice("seeds_at", settings.get("seeds_at", "random"), PLACEMENTS)
    seeding = check_choice("seeding", settings.get("seeding", "volume"), SEEDINGS)
    tracker = Tracker(model, data.subject, rules, acceptance=acceptance, **own)
    where = {"placement": placement, "seeding": seeding}
    return tracker, Seeds(data.seeding_mask, per_voxel=per_voxel, total=total, seed=rules.seed, **where)


def tracking_acceptance(
    classifier: ClassifierModel | None, settings: Mapping[str, Any], rules: PropagationRules
) -> Acceptance | None:
    """Return which streamlines are accepted; None: all that are long enough.

    Parameters
    ----------
    classifier
        The trained classifier, or None.
    settings
        :class:`TrackingKeywords`.
    rules
        Value of :func:`tracking_rules`.

    Raises
    ------
    ValueError
        If the model is not a classifier, a number is out of range, a setting needs a classifier, or several attempts
        need another algorithm.
    """
    given = {name: settings[name] for name in _OF_ACCEPTANCE if name in settings}
    if classifier is not None:
        acceptance = Acceptance(classifier, **given)
        acceptance.check_rules(rules)
        return acceptance
    for name, value in given.items():
        if value != _OF_ACCEPTANCE[name]:
            raise ValueError(f"{name} has no effect without a classifier; give a classifier, or leave out {name}.")
    return None


def track_groups(
    tracker: Tracker,
    seeds: Seeds,
    writer: TractogramWriter | None = None,
    *,
    saved: Sequence[str] = (),
    on_progress: Callable[[int], object] | None = None,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64], dict[str, NDArray[np.float32]]]]:
    """Track one group of seeds after the other.

    Parameters
    ----------
    tracker, seeds
        Values of :func:`prepare_tracking`.
    writer
        An open writer, to which the streamlines are appended; None for none.
    saved
        The data per streamline to return and to write; see :func:`saved_data`.
    on_progress
        Function that is called after each group, with its number of seeds.

    Yields
    ------
    points
        Shape (N, 3), voxel space, corner origin: the points of the streamlines of a group.
    lengths
        Shape (S,): the number of points of each streamline.
    data
        {name: values (S, K), float32} of `saved`. Seeds are in voxel space, corner origin.
    """
    done = 0
    for tracked in tracker.track(seeds):
        lines = tracked.streamlines
        points, lengths = lines.data.cpu().numpy(), lines.lengths.numpy()
        known = {SEEDS: tracked.seeds}
        if tracked.plausibility is not None:
            known[PLAUSIBILITY] = tracked.plausibility[:, None]
        data = {name: known[name].cpu().numpy() for name in saved}
        if writer is not None:
            writer.append(points, lengths, data)
        if on_progress is not None:
            on_progress(tracker.counts.nb_seeds - done)
        done = tracker.counts.nb_seeds
        yield points, lengths, data


def saved_data(acceptance: Acceptance | None, *, save_seeds: bool, save_plausibility: bool) -> dict[str, int]:
    """Return the data per streamline to save, by name, with the number of values of a streamline.

    Parameters
    ----------
    acceptance
        Value of :func:`tracking_acceptance`.
    save_seeds, save_plausibility
        Whether to save the seed, and the plausibility, of each streamline.

    Raises
    ------
    ValueError
        If the plausibility is to be saved and there is no classifier.
    """
    if save_plausibility and acceptance is None:
        raise ValueError(
            "save_plausibility has no effect without a classifier; give a classifier, or leave out save_plausibility."
        )
    return {**({SEEDS: 3} if save_seeds else {}), **({PLAUSIBILITY: 1} if save_plausibility else {})}
