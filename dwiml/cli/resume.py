"""``dwiml resume``: continue an experiment that was stopped."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dwiml.cli.options.declarations import constant_of, parameters_of
from dwiml.cli.options.derived import add_option
from dwiml.cli.options.parsing import parse_known_options
from dwiml.cli.options.shared import add_verbose
from dwiml.cli.options.user_classes import add_class_options
from dwiml.cli.running.training import run_training

DATASET = "dwiml.data.dataset.MultiSubjectDataset"
SETTINGS = "dwiml.training.settings.TrainerSettings"
MAY_CHANGE = constant_of("dwiml.training.experiment.parameters.MAY_CHANGE")
# The command sets it.
_FIXED = "trainer.resume"
_NEW = ("max_epochs", "patience")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml resume",
        allow_abbrev=False,
        usage="dwiml resume EXPERIMENT [options]",
        description="Continue an experiment of 'dwiml train' from its checkpoint. Options that are not given keep "
        "their recorded values.",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help="experiment folder")
    for section, path in (("trainer", SETTINGS), ("data", DATASET)):
        group = parser.add_argument_group(section)
        for name, parameter in parameters_of(path).items():
            if f"{section}.{name}" in MAY_CHANGE - {_FIXED}:
                quiet: dict[str, Any] = {"off": ("-q",)} if name == "verbose" else {}
                new = f"new_{name}" if name in _NEW else name
                # Valid for one resume only.
                shown = "off" if name == "allow_changed_data" else "as recorded"
                add_option(group, parameter, name=new, absent=True, shown=shown, **quiet)
    add_class_options(parser, trainer=True)
    add_verbose(parser, dest="informative")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    arguments = parse_known_options(parser, argv)
    settings = {**_recorded_settings(Path(arguments.experiment)), **vars(arguments)}
    return run_training(lambda: _run(arguments), settings, parser=parser, verbose=arguments.informative)


def _recorded_settings(experiment: Path) -> dict[str, Any]:
    """Return the trainer's recorded settings; empty if they cannot be read, which is an error later."""
    from dwiml.files import read_json

    with suppress(OSError, ValueError, KeyError, TypeError):
        return dict(read_json(experiment / "parameters.json")["trainer"])
    return {}


def _run(arguments: argparse.Namespace) -> None:
    from dwiml.training.loading import rebuild_experiment, recorded_parameters
    from dwiml.training.recorded_classes import trainer_class_of

    given = vars(arguments)
    changes = {name.removeprefix("new_"): value for name, value in given.items()}
    data = {name: given[name] for name in parameters_of(DATASET) if name in given}
    recorded = recorded_parameters(arguments.experiment)
    trainer_class = trainer_class_of(recorded, arguments.trainer_class, arguments.experiment)
    rebuilt = rebuild_experiment(arguments.experiment, model_class=arguments.model_class, **data)
    trainer = trainer_class.init_from_checkpoint(
        rebuilt.model,
        rebuilt.folder.path.parent,
        rebuilt.folder.path.name,
        rebuilt.sampler,
        rebuilt.loader,
        **{name: changes[name] for name in parameters_of(SETTINGS) if name in changes},
    )
    trainer.train_and_validate()
