"""``dwiml resume``: continue an experiment that was stopped."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dwiml.cli.run_training import run_training
from dwiml.cli.trainer_options import add_comet_options, add_machine_options, add_stop_options, count_or_none
from dwiml.cli.unknown_options import parse_known_options

# What a resumed run may do differently: of each, the recorded value holds unless another is given.
KEPT = (
    "nb_cpu_processes",
    "use_gpu",
    "verbose",
    "profile",
    "nan_policy",
    "comet_workspace",
    "comet_project",
    "checkpoint_minutes",
    "stop_signal",
    "max_time",
    "requeue",
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml resume",
        allow_abbrev=False,
        description="Continue an experiment of 'dwiml train' from its checkpoint. All that is not given here is as "
        "recorded there.",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help="the experiment's folder")
    parser.add_argument("--new_max_epochs", type=int, metavar="N", help="epochs in all [as recorded]")
    parser.add_argument(
        "--new_patience",
        type=count_or_none,
        default=argparse.SUPPRESS,
        metavar="N|none",
        help="epochs without progress before stopping [as recorded]",
    )
    parser.add_argument("--hdf5_file", metavar="HDF5", help="where the data are now [where they were]")
    add_machine_options(parser, resuming=True)
    add_comet_options(parser, resuming=True)
    parser.add_argument(
        "--nan_policy", default=argparse.SUPPRESS, metavar="WHAT", help="of NaN: stop or skip [as recorded]"
    )
    for name, action, told in (
        ("--profile", "store_true", "show where the time of a step goes"),
        ("--no_profile", "store_false", "the opposite of --profile"),
    ):
        parser.add_argument(name, dest="profile", action=action, default=argparse.SUPPRESS, help=told)
    add_stop_options(parser, resuming=True)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_known_options(build_parser(), argv)
    settings = {**_recorded_settings(Path(arguments.experiment)), **vars(arguments)}
    return run_training(lambda: _run(arguments), settings, verbose=arguments.talkative)


def _recorded_settings(experiment: Path) -> dict[str, Any]:
    """Return the trainer's recorded settings; none where they cannot be read, which is told later."""
    from dwiml.files import read_json

    with suppress(OSError, ValueError, KeyError, TypeError):
        return dict(read_json(experiment / "parameters.json")["trainer"])
    return {}


def _run(arguments: argparse.Namespace) -> None:
    from dwiml.training.loading import rebuild_experiment

    given = vars(arguments)
    changes = {name: given[name] for name in KEPT if name in given}
    if "new_patience" in given:
        changes["patience"] = given["new_patience"]
    rebuilt = rebuild_experiment(arguments.experiment, hdf5_file=arguments.hdf5_file)
    trainer = rebuilt.trainer_class.init_from_checkpoint(
        rebuilt.model,
        rebuilt.folder.path.parent,
        rebuilt.folder.path.name,
        rebuilt.sampler,
        rebuilt.loader,
        new_max_epochs=arguments.new_max_epochs,
        allow_changed_data=arguments.allow_changed_data,
        **changes,
    )
    trainer.train_and_validate()
