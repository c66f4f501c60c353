"""The options of the trainer, as ``dwiml train`` and ``dwiml resume`` have them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any


def add_trainer_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--learning_rates", type=_rate, nargs="+", default=0.001, metavar="RATE", help="one, or one an epoch [0.001]"
    )
    group.add_argument("--weight_decay", type=float, default=0.0, help="L2 penalty; decoupled with AdamW [%(default)s]")
    group.add_argument("--optimizer", default="Adam", help="Adam, AdamW, RAdam or SGD [%(default)s]")
    group.add_argument("--max_epochs", type=int, default=10, metavar="N", help="epochs in all [%(default)s]")
    for phase in ("training", "validation"):
        group.add_argument(
            f"--max_batches_per_epoch_{phase}",
            type=count_or_none,
            default=1000,
            metavar="N",
            help="most batches an epoch, or none for all [%(default)s]",
        )
    group.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="epochs without progress before stopping; where the best model is chosen by what it makes, those in which "
        "it tracks [never]",
    )
    group.add_argument(
        "--patience_delta", type=float, default=1e-6, metavar="D", help="what counts as progress [%(default)s]"
    )
    group.add_argument("--clip_grad", type=float, metavar="NORM", help="largest gradient norm [no limit]")
    group.add_argument(
        "--accumulate_batches",
        type=int,
        default=1,
        metavar="N",
        help="batches to an optimizer step [%(default)s]",
    )
    group.add_argument(
        "--lr_scheduler", metavar="NAME", help="warmup_cosine, or a class of torch.optim.lr_scheduler [none]"
    )
    group.add_argument(
        "--lr_scheduler_args", type=json_object, metavar="JSON", help='its arguments, as {"warmup_epochs": 2}'
    )
    group.add_argument("--precision", default="float32", help="float32, bf16 or fp16 [%(default)s]")
    group.add_argument("--ema_decay", type=float, metavar="D", help="average the weights, with 0.999 for instance [no]")
    group.add_argument("--deterministic", action="store_true", help="deterministic algorithms on a GPU too")
    group.add_argument("--compile_model", action="store_true", help="compile the model's layers")
    group.add_argument("--nan_policy", default="stop", metavar="WHAT", help="of NaN: stop or skip [%(default)s]")
    group.add_argument("--seed", type=int, help="of weights, batches, augmentation and dropout [drawn]")
    group.add_argument("--resume", default="never", metavar="HOW", help="never, auto or must [%(default)s]")
    add_machine_options(group)
    add_comet_options(group)
    add_stop_options(parser.add_argument_group("when the job ends"))
    trying = parser.add_argument_group("trying out")
    trying.add_argument("--fast_dev_run", action="store_true", help="2 batches of each phase, in a temporary folder")
    trying.add_argument("--overfit_batches", type=int, metavar="N", help="train on the first N batches only [all]")
    trying.add_argument("--profile", action="store_true", help="show where the time of a step goes")


def add_tracking_phase_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the generation-validation phase; those that are not given are absent."""
    group = parser.add_argument_group(
        "generation-validation (when one of these is given, the model tracks on from the beginnings of the validation "
        "streamlines)",
        argument_default=argparse.SUPPRESS,
    )
    group.add_argument("--tracking_phase_frequency", type=int, metavar="N", help="every N epochs [1]")
    group.add_argument(
        "--tracking_phase_nb_segments_init", type=int, metavar="N", help="segments that the model is given [1]"
    )
    group.add_argument("--tracking_phase_max_batches", type=int, metavar="N", help="validation batches [all]")
    group.add_argument(
        "--tracking_phase_mask_group", metavar="GROUP", help="volume group where streamlines may go [the true length]"
    )
    group.add_argument("--tracking_phase_mask_interpolation", metavar="HOW", help="nearest or trilinear [nearest]")
    group.add_argument(
        "--tracking_phase_ground_truth",
        metavar="DIR",
        help="true bundles, as 'dwiml score' reads them, {subject} for the subject's name [none]",
    )
    group.add_argument("--tracking_phase_step_size", type=float, metavar="MM", help="between points [the model's]")
    group.add_argument("--tracking_phase_theta", type=float, metavar="DEG", help="largest turn in a step [45]")
    group.add_argument("--tracking_phase_max_length", type=float, metavar="MM", help="end there [300]")
    group.add_argument("--tracking_phase_eos_thresh", type=float, metavar="P", help="probability of an end [not asked]")
    group.add_argument(
        "--best_model_metric",
        metavar="NAME",
        help="what the best model is chosen by: valid_loss, gv_endpoint_distance_mm, gv_length_ratio, gv_left_mask, "
        "gv_invalid_connections or gv_valid_connections [valid_loss]",
    )


def add_machine_options(group: argparse._ActionsContainer, *, resuming: bool = False) -> None:
    """Add the options of where and how a training runs; when ``resuming``, those that are not given are absent."""
    add = _adder(group, resuming=resuming)
    add("--nb_cpu_processes", type=int, default=0, metavar="N", help="loader workers")
    add("--use_gpu", type=_yes_no_or_auto, default=None, metavar="yes|no|auto", help="auto: when there is one")
    add("-q", dest="verbose", action="store_false", default=True, help="no progress bar, no line an epoch")
    if resuming:
        add("--no_quiet", dest="verbose", action="store_true", help="the opposite of -q")
    group.add_argument("-v", dest="talkative", action="store_true", help="show informative messages")


def add_comet_options(group: argparse._ActionsContainer, *, resuming: bool = False) -> None:
    """Add Comet's two names; when ``resuming``, those that are not given are absent."""
    add = _adder(group, resuming=resuming)
    off = "; none: no longer" if resuming else ""
    add("--comet_workspace", type=_text_or_none, metavar="NAME", help=f"with --comet_project: log to Comet too{off}")
    add("--comet_project", type=_text_or_none, metavar="NAME", help="with --comet_workspace")


def add_stop_options(group: argparse._ActionsContainer, *, resuming: bool = False) -> None:
    """Add the options of how a job ends; when ``resuming``, those that are not given are absent."""
    add = _adder(group, resuming=resuming)
    add(
        "--checkpoint_minutes",
        type=_number_or_none,
        metavar="MIN|none",
        help="checkpoints within an epoch too; none: at its end only",
    )
    add(
        "--stop_signal",
        type=_text_or_none,
        default="SIGUSR1",
        metavar="NAME|none",
        help="write a checkpoint and end, as at SIGTERM and Ctrl-C",
    )
    add(
        "--max_time", type=_text_or_none, metavar="TIME|none", help="the same when the process is that old, as 11:50:00"
    )
    add("--requeue", action="store_true", default=False, help="then ask SLURM to queue the job again")
    if resuming:
        add("--no_requeue", dest="requeue", action="store_false", help="the opposite of --requeue")
    group.add_argument("--allow_changed_data", action="store_true", help="resume on another HDF5 file than before")


def _adder(group: argparse._ActionsContainer, *, resuming: bool) -> Callable[..., None]:
    """Return what adds an option with its default in its help; when ``resuming``, the default is what was recorded."""

    def add(*names: str, default: Any = None, help: str, action: str | None = None, **more: Any) -> None:
        shown = "as recorded" if resuming else ("auto" if names[0] == "--use_gpu" else default)
        told = "" if action is not None else f" [{'none' if shown is None else shown}]"
        options = more if action is None else {"action": action, **more}
        group.add_argument(*names, default=argparse.SUPPRESS if resuming else default, help=f"{help}{told}", **options)

    return add


def count_or_none(text: str) -> int | None:
    return None if text.lower() == "none" else int(text)


def _number_or_none(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


def _text_or_none(text: str) -> str | None:
    return None if text.lower() == "none" else text


def _yes_no_or_auto(text: str) -> bool | None:
    if text not in ("yes", "no", "auto"):
        raise argparse.ArgumentTypeError(f"yes, no or auto expected, got '{text}'")
    return {"yes": True, "no": False, "auto": None}[text]


def json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"a JSON object expected, got '{text}'")
    return value


def _rate(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        hint = "; separate several by spaces" if "," in text else ""
        raise argparse.ArgumentTypeError(f"a learning rate must be a number, got '{text}'{hint}") from None
