"""``dwiml resume``: continue an experiment that was stopped."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dwiml.cli import run_command
from dwiml.cli.trainer_options import add_machine_options, add_stop_options

STOP_OPTIONS = ("checkpoint_minutes", "stop_signal", "max_time", "requeue", "allow_changed_data")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml resume",
        description="Continue an experiment of 'dwiml train' from its checkpoint, with the parameters recorded there.",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help="the experiment's folder")
    parser.add_argument("--new_max_epochs", type=int, metavar="N", help="epochs in all [as before]")
    parser.add_argument("--new_patience", type=int, metavar="N", help="[as before]")
    parser.add_argument("--hdf5_file", metavar="HDF5", help="where the data are now [where they were]")
    add_machine_options(parser)
    add_stop_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: _run(arguments), verbose=arguments.talkative)


def _run(arguments: argparse.Namespace) -> None:
    from dwiml.training.rebuild import rebuild_experiment

    rebuilt = rebuild_experiment(arguments.experiment, hdf5_file=arguments.hdf5_file)
    trainer = rebuilt.trainer_class.init_from_checkpoint(
        rebuilt.model,
        rebuilt.folder.path.parent,
        rebuilt.folder.path.name,
        rebuilt.sampler,
        rebuilt.loader,
        new_max_epochs=arguments.new_max_epochs,
        new_patience=arguments.new_patience,
        nb_cpu_processes=arguments.nb_cpu_processes,
        use_gpu=arguments.use_gpu,
        verbose=arguments.verbose,
        **{name: getattr(arguments, name) for name in STOP_OPTIONS},
    )
    trainer.train_and_validate()
