"""Tracking with Learn2Track: all streamlines at once, beside the same streamlines one at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from measuring import Figure, compare

from dwiml import Learn2TrackModel
from dwiml.models.allocator import keep_freed_memory
from dwiml.tracking.propagation import PropagationRules
from dwiml.tracking.seeds import Seeds
from dwiml.tracking.tracker import Tracker, TrackingSubject


def measure_tracking(name: str, *, quick: bool, device: torch.device, nb_seeds: int = 5000) -> Figure:
    """Track both ways from seeds, 0.75 mm a step, 1 mm voxels, on 2 threads of the CPU or on a GPU.

    The model is not trained: its streamlines go on until the end of the volume, 60 mm at most.
    """
    torch.set_num_threads(2)
    if device.type == "cpu":
        keep_freed_memory()
    size, layers, nb_seeds, nb_alone = (12, (16, 16), 30, 5) if quick else (80, (256, 256), nb_seeds, 25)
    torch.manual_seed(0)
    model = Learn2TrackModel(nb_features=28, rnn_layer_sizes=layers, nb_previous_dirs=1, step_size=0.75).to(device)
    volume = torch.randn(size, size, size, 28, generator=torch.Generator().manual_seed(0))
    subject = TrackingSubject(volume, torch.ones(3), torch.ones(size, size, size, dtype=torch.bool))
    # A direction and its opposite are the same to it: otherwise an untrained model turns around.
    rules = PropagationRules(step_size=0.75, theta=90.0, max_length=60.0, antipodal=True)

    def track(nb: int, simultaneous: int) -> Callable[[], int]:
        def work() -> int:
            tracker = Tracker(model, subject, rules, simultaneous=simultaneous)
            seeds = Seeds(torch.ones(size, size, size, dtype=torch.bool), total=nb, seed=1)
            return sum(len(tracked.streamlines) for tracked in tracker.track(seeds))

        return work

    seconds, alone, peak = compare(
        track(nb_seeds, nb_seeds), track(nb_alone, 1), repeats=3, baseline_repeats=3, device=device
    )
    return Figure(name, nb_seeds / seconds, "streamlines/s", nb_alone / alone, "the same, one at a time", peak)
