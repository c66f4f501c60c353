"""``dwiml evaluate``: the direction error of a trained model, or what a trained classifier of streamlines keeps."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwiml.arguments import grouped
from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_moved_data, add_verbose
from dwiml.cli.options.user_classes import add_class_options

if TYPE_CHECKING:
    from dwiml.evaluation.direction_error import DirectionError
    from dwiml.evaluation.plausibility import PlausibilityErrors

# Smallest probabilities of an accepted streamline.
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml evaluate",
        allow_abbrev=False,
        description="Evaluate the best model of an experiment of 'dwiml train' at each point of true streamlines: "
        "its loss and mean angle to the next step, compared with the same model before training and with going "
        "straight on. A classifier ('dwiml train streamline-classifier') is evaluated on labeled streamlines: how many "
        "of the plausible ones, and of the others, each --min_plausibility keeps.",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help="experiment folder")
    parser.add_argument(
        "--subset", default="validation", metavar="NAME", help="training, validation or testing [%(default)s]"
    )
    parser.add_argument("--max_batches", type=int, metavar="N", help="evaluate at most N batches [all]")
    add_moved_data(parser)
    add_class_options(parser)
    add_verbose(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    import torch

    from dwiml.arguments import check_choice, check_whole
    from dwiml.data.dataset import SUBSETS
    from dwiml.evaluation.direction_error import evaluate_directions
    from dwiml.evaluation.plausibility import evaluate_plausibility
    from dwiml.tracking.acceptance import check_classifier
    from dwiml.training.loading import load_best_model, rebuild_experiment

    check_choice("--subset", arguments.subset, SUBSETS)
    if arguments.max_batches is not None:
        check_whole("--max_batches", arguments.max_batches, low=1)
    model_class = arguments.model_class
    rebuilt = rebuild_experiment(
        arguments.experiment, model_class=model_class, hdf5_file=arguments.hdf5_file, load_testing=True
    )
    trained = load_best_model(arguments.experiment, model_class=model_class)
    which = {"phase": arguments.subset, "max_batches": arguments.max_batches}
    if hasattr(trained, "plausibility"):
        check_classifier(trained)
        found = evaluate_plausibility(trained, rebuilt.sampler, rebuilt.loader, **which)
        print(plausibility_table(found, arguments.subset))
        return
    if not hasattr(trained, "get_tracking_directions"):
        raise ValueError(
            f"'dwiml evaluate' measures the error of predicted directions, and {type(trained).__name__} predicts none: "
            "use 'dwiml show_loss', which writes the loss at each point."
        )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        untrained = type(rebuilt.model)(**rebuilt.model.params).to(next(trained.parameters()).device)
    errors = {
        name: evaluate_directions(model, rebuilt.sampler, rebuilt.loader, **which)
        for name, model in (("untrained model", untrained), ("trained model", trained))
    }
    print(table(errors, arguments.subset))


def table(errors: dict[str, DirectionError], subset: str) -> str:
    """Return the direction errors {name of the model: errors} on a subset, and the baseline, as a text table."""
    first = next(iter(errors.values()))
    lines = [
        f"Direction error on the {subset} set ({grouped(first.nb_points)} points; angles in degrees, in scanner space)",
        f"{'':<18}{'loss':>10}{'mean angle':>14}{'after the first point':>25}",
    ]
    for name, error in errors.items():
        lines.append(f"{name:<18}{error.loss:>10.4f}{error.angle:>14.2f}{error.angle_after_first:>25.2f}")
    lines.append(f"{'straight on':<18}{'-':>10}{'-':>14}{first.straight_on_angle:>25.2f}")
    lines.append(
        "(straight on repeats the previous true direction: it has no direction at the first point, and no loss."
    )
    lines.append(
        "It knows the true direction at each point, so it is hard to beat on smooth bundles, but it cannot track:"
    )
    lines.append("judge a model by its tractogram, with 'dwiml track' and 'dwiml score')")
    return "\n".join(lines)


def plausibility_table(found: PlausibilityErrors, subset: str) -> str:
    """Return the errors of a classifier on a subset, and what each smallest probability keeps, as a text table."""
    nb, nb_plausible = len(found.values), int(found.is_plausible.sum())
    area = _shown(found.area_under_curve, ".4f")
    lines = [
        f"Plausibility on the {subset} set ({grouped(nb)} streamlines, of which {grouped(nb_plausible)} are plausible)",
        f"loss {found.loss:.4f} ({found.constant_loss:.4f} with the same probability for all), area under the ROC "
        f"curve {area}",
        "",
        f"{'--min_plausibility':<18}{'plausible kept':>18}{'others kept':>15}{'plausible among the kept':>28}",
    ]
    for threshold in THRESHOLDS:
        kept = found.kept_from(threshold)
        shares = [_shown(share, ".1%") for share in (kept.plausible, kept.others, kept.plausible_among_kept)]
        lines.append(f"{threshold:<18g}{shares[0]:>18}{shares[1]:>15}{shares[2]:>28}")
    lines.append("(in a tractogram with another share of plausible streamlines, the last column differs)")
    return "\n".join(lines)


def _shown(value: float, form: str) -> str:
    return "-" if value != value else format(value, form)
