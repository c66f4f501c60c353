"""The summary of a training, shown before its first epoch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from dwiml.arguments import counted, grouped
from dwiml.batching.lengths import longest_streamline, resampling_of
from dwiml.batching.loader import DWIMLBatchLoaderOneInput, DWIMLStreamlinesBatchLoader
from dwiml.batching.sampler import DWIMLBatchIDSampler

if TYPE_CHECKING:
    from dwiml.training.trainer import DWIMLTrainer

MIB = 2**20


def summarize(trainer: DWIMLTrainer) -> str:
    """Return the text of :meth:`DWIMLTrainer.summary`."""
    model, optimizer, settings = trainer.model, trainer.optimizer, trainer.settings
    sampler, loader, nb_ranks = trainer.batch_sampler, trainer.batch_loader, trainer.ranks.nb
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    nb_all = sum(parameter.numel() for parameter in model.parameters())
    nb_trained = sum(parameter.numel() for parameter in weights)
    processes = "" if nb_ranks == 1 else f", {nb_ranks} processes that share each batch"
    lines = [
        f"Model      {type(model).__name__}: {grouped(nb_all)} parameters, {grouped(nb_trained)} of them trained, "
        f"on {trainer.device}{processes}",
    ]
    for phase in ("training",) if settings.overfit_batches is not None else ("training", "validation"):
        line = _phase_line(phase, sampler, settings.max_batches(phase))
        if line:
            lines.append(line)
    lines.append(_memory_line(weights, optimizer, sampler, loader))
    longest = longest_streamline(sampler.dataset, sampler.streamline_group_name, model)
    if longest is not None:
        lines.append(f"Longest    {counted(longest.nb_points, 'point')} in a streamline, as given to the model")
    lines += _hint_on_steps(sampler, settings.max_batches("training"), settings.accumulate_batches)
    return "\n".join(lines)


def _hint_on_steps(sampler: DWIMLBatchIDSampler, max_batches: int | None, accumulate_batches: int) -> list[str]:
    """Return a line if an epoch updates the weights only once or twice because there is little data."""
    nb_batches = sampler.nb_batches("training", 0, max_batches=max_batches)
    nb_steps = math.ceil(nb_batches / accumulate_batches)
    # No hint if the number of batches was limited on purpose.
    if nb_steps > 2 or nb_batches == max_batches:
        return []
    smaller = "a smaller batch_size_training" + (" or accumulate_batches" if accumulate_batches > 1 else "")
    times = "once" if nb_steps == 1 else "twice"
    return [f"Hint       the weights are updated only {times} per epoch: {smaller} learns faster"]


def _phase_line(phase: str, sampler: DWIMLBatchIDSampler, max_batches: int | None) -> str:
    subset = sampler.dataset.subset(phase)
    lengths = subset.streamline_lengths_mm.get(sampler.streamline_group_name, [])
    nb_streamlines = sum(len(mm) for mm in lengths)
    if nb_streamlines == 0:
        return ""
    nb_batches = sampler.nb_batches(phase, 0)
    nb_seen = nb_batches if max_batches is None else min(nb_batches, max_batches)
    meters = sum(float(np.sum(mm, dtype=np.float64)) for mm in lengths) / 1000
    meters_text = f"{meters:.1f}" if meters < 10 else grouped(meters)
    every = "it" if nb_batches == 1 else "all of them"
    seen = every if nb_seen == nb_batches else f"{nb_seen} of them, {nb_seen / nb_batches:.0%} of the data"
    return (
        f"{phase.capitalize():10} {counted(len(subset), 'subject')}, {counted(nb_streamlines, 'streamline')}, "
        f"{meters_text} meters; {counted(nb_batches, 'batch')}, an epoch uses {seen}"
    )


def _memory_line(
    weights: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    sampler: DWIMLBatchIDSampler,
    loader: DWIMLStreamlinesBatchLoader,
) -> str:
    nb_bytes = sum(parameter.numel() * parameter.element_size() for parameter in weights)
    # Adam and similar optimizers keep two moments per weight.
    copies = 4 if "betas" in optimizer.defaults else 2
    parts = {"weights, gradients, optimizer": copies * nb_bytes}
    if isinstance(loader, DWIMLBatchLoaderOneInput):
        shapes = [subject.volumes[loader.input_group_name].shape for subject in sampler.dataset.training_set]
        at_once = sampler.nb_subjects_per_batch or len(shapes)
        largest = sorted((int(np.prod(shape)) for shape in shapes), reverse=True)
        bytes_each = 4 if loader.volume_dtype == "float32" else 2
        parts["volumes"] = bytes_each * sum(largest[: max(at_once, sampler.dataset.cache_size)])
        parts["inputs of a batch"] = 4 * _points_of_a_batch(sampler, loader) * loader.volumes.nb_columns
    total = sum(parts.values())
    listed = ", ".join(f"{name} {_mib(size)}" for name, size in parts.items())
    return f"Memory     at least {_mib(total)}, plus the activations of the model: {listed}"


def _points_of_a_batch(sampler: DWIMLBatchIDSampler, loader: DWIMLStreamlinesBatchLoader) -> int:
    streamlines = [subject.streamlines[sampler.streamline_group_name] for subject in sampler.dataset.training_set]
    nb, mm = sum(len(each) for each in streamlines), sum(float(each.lengths_mm.sum()) for each in streamlines)
    after = resampling_of(loader.model).nb_points_after
    points_each = sum(int(after(each.lengths, each.lengths_mm).sum()) for each in streamlines) / nb
    size = sampler.batch_size["training"]
    nb_streamlines = size if sampler.batch_size_units == "nb_streamlines" else size / (mm / nb)
    return int(min(nb_streamlines, nb) * points_each)


def _mib(nb_bytes: float) -> str:
    return f"{nb_bytes / MIB:.0f} MiB" if nb_bytes >= 10 * MIB else f"{nb_bytes / MIB:.1f} MiB"
