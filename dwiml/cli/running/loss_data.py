"""The data of ``dwiml show_loss``: subjects of an HDF5 file, or images and a tractogram."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dwiml.data.dataset import MultiSubjectDataset
    from dwiml.evaluation.losses_by_point import SubjectReader

ALL = "all"


def load_loss_data(arguments: argparse.Namespace) -> tuple[Any, list[SubjectReader]]:
    """Load the best model, and open the subjects that the arguments name.

    Parameters
    ----------
    arguments
        Arguments of ``dwiml show_loss``.

    Returns
    -------
    model
        The best model of the experiment, on its device.
    readers
        A reader for each subject.

    Raises
    ------
    FileNotFoundError, ValueError
        If something is missing or invalid, or options contradict each other.
    """
    _check_options(arguments)
    return _from_images(arguments) if arguments.input is not None else _from_hdf5(arguments)


def _check_options(arguments: argparse.Namespace) -> None:
    from dwiml.cli.running.tracking_data import check_options_of_images

    source = "--tractogram" if arguments.input is None else "--input"
    if arguments.subject == ALL and (arguments.input is not None or arguments.tractogram is not None):
        raise ValueError(f"{source} has the data of one subject: give its name instead of '{ALL}'.")
    check_options_of_images(arguments)
    if arguments.input is None:
        return
    if arguments.tractogram is None:
        raise ValueError("--input needs --tractogram: images have no streamlines.")
    if arguments.subset is not None:
        raise ValueError("--subset is for a subject of the HDF5 file: leave it out, or leave out --input.")


def _from_images(arguments: argparse.Namespace) -> tuple[Any, list[SubjectReader]]:
    from dwiml.cli.running.tracking_data import check_files, options_of_images
    from dwiml.evaluation.losses_by_point import SubjectReader
    from dwiml.trained.given_subject import load_given_subject
    from dwiml.training.loading import load_best_model, recorded_parameters

    recorded = recorded_parameters(arguments.experiment)
    if recorded["loader"].get("input_group_name") is None:
        raise ValueError(
            f"The model of '{arguments.experiment}' was trained without a volume and needs no images: leave out "
            "--input."
        )
    check_files(arguments, ("input", "std_mask", "tractogram"))
    model = load_best_model(arguments.experiment, model_class=arguments.model_class)
    loader = load_given_subject(
        arguments.experiment,
        recorded,
        model,
        arguments.subject,
        arguments.input,
        arguments.tractogram,
        hdf5_file=arguments.hdf5_file,
        **options_of_images(arguments),
    )
    return model, [SubjectReader(loader, "testing", 0, batch_size=arguments.batch_size)]


def _from_hdf5(arguments: argparse.Namespace) -> tuple[Any, list[SubjectReader]]:
    from dwiml.evaluation.losses_by_point import SubjectReader
    from dwiml.training.loading import load_best_model, rebuild_experiment

    model_class = arguments.model_class
    # Lazy, because only one subject is read at a time.
    rebuilt = rebuild_experiment(
        arguments.experiment, model_class=model_class, hdf5_file=arguments.hdf5_file, load_testing=True, lazy=True
    )
    model = load_best_model(arguments.experiment, model_class=model_class)
    phase, subjects = _find(rebuilt.dataset, arguments.subject, arguments.subset)
    readers = [SubjectReader(rebuilt.loader, phase, each, batch_size=arguments.batch_size) for each in subjects]
    if arguments.tractogram is not None:
        readers[0].replace_streamlines(arguments.tractogram)
    return model, readers


def _find(dataset: MultiSubjectDataset, subject: str, subset: str | None) -> tuple[str, list[int]]:
    """Return the subset and the indices in it of the requested subjects."""
    from dwiml.cli.running.input_files import check_subset, find_subject

    check_subset(subset)
    if subject == ALL:
        phase = subset or "validation"
        if not dataset.subset(phase).subjects:
            raise ValueError(
                f"The {phase} set of {dataset.files_shown} has no subjects; choose another one with --subset."
            )
        return phase, list(range(len(dataset.subset(phase))))
    phase, found = find_subject(dataset, subject, subset)
    return phase, [found]
