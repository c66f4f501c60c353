from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dwiml.models.protocols import check_tracks
from dwiml.tracking.propagation import PropagationRules
from dwiml.tracking.tracker import Tracker, TrackingSubject

ROOT = Path(__file__).parents[2]

COMPLETE = """
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dwiml import TensorSequence
from dwiml.ops.randomness import KeyedDraws


class FollowPeaks:
    nb_features, neighborhood_offsets, nb_points_to_track = 3, None, 1
    device = torch.device("cpu")

    def parameters(self) -> Iterator[Tensor]:
        return iter(())

    def eval(self) -> None: ...

    def check_tracking(self, algo: str, eos_stopping_thresh: float | None) -> None: ...

    def track_step(self, inputs: TensorSequence, streamlines: TensorSequence, memory: Any) -> tuple[Tensor, None]:
        return inputs.last_points(), None

    def select_memory(self, memory: Any, kept: Tensor) -> None: ...

    def get_tracking_directions(
        self,
        outputs: Tensor,
        algo: str,
        eos_stopping_thresh: float | None = None,
        *,
        draws: KeyedDraws | None = None,
        allowed: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        return outputs
"""
CHECKED = """
from complete import FollowPeaks
from incomplete import FollowPeaks as Incomplete

from dwiml import Learn2TrackModel, ModelWithOneInput, TrackingModel
from dwiml.models.protocols import DirectionModel, LossModel, OneInputModel

complete: TrackingModel = FollowPeaks()
learn2track: TrackingModel = Learn2TrackModel(nb_features=3)
directed: DirectionModel = Learn2TrackModel(nb_features=3)
of_loss: LossModel = Learn2TrackModel(nb_features=3)
loaded: OneInputModel = Learn2TrackModel(nb_features=3)
incomplete: TrackingModel = Incomplete()


class NoDirections(ModelWithOneInput): ...


def of_torch(model: NoDirections) -> TrackingModel:
    return model


def loss_only(lossy: NoDirections) -> LossModel:
    return lossy


def without_directions(undirected: NoDirections) -> DirectionModel:
    return undirected
"""


@pytest.mark.slow
def test_a_type_checker_tells_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "complete.py").write_text(COMPLETE, encoding="utf-8")
    (tmp_path / "incomplete.py").write_text(COMPLETE.replace("def select_memory", "def other"), encoding="utf-8")
    (tmp_path / "checked.py").write_text(CHECKED, encoding="utf-8")
    files = [str(tmp_path / f"{name}.py") for name in ("complete", "incomplete", "checked")]
    # With the project's configuration, and so with what it has in its cache.
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert not done.stderr
    of_lines: dict[str, str] = {}
    for line in done.stdout.splitlines():
        place, _, said = line.partition(": ")
        of_lines[Path(place).name] = of_lines.get(Path(place).name, "") + said
    number = {text: f"checked.py:{i}" for i, text in enumerate(CHECKED.splitlines(), start=1)}
    own = of_lines.pop(number["incomplete: TrackingModel = Incomplete()"])
    assert '"FollowPeaks" is missing following "TrackingModel" protocol member:' in own
    assert "select_memory" in own
    # Torch's modules have any attribute, for a type checker, but of another type.
    of_torch = of_lines.pop(number["    return model"])
    assert "check_tracking: expected" in of_torch
    assert "get_tracking_directions: expected" in of_lines.pop(number["    return undirected"])
    # Whatever is complete is accepted.
    assert of_lines == {}


def test_at_run_time_one_sentence_tells_it() -> None:
    namespace: dict[str, type] = {}
    exec(COMPLETE, namespace)
    model = namespace["FollowPeaks"]()
    check_tracks(model, "Tracker")
    subject = TrackingSubject(torch.ones(4, 4, 4, 3), torch.ones(3))
    Tracker(model, subject, PropagationRules(step_size=0.5))
    del namespace["FollowPeaks"].select_memory
    with pytest.raises(ValueError, match="Tracker needs a model that tracks; FollowPeaks has no select_memory: make"):
        Tracker(model, subject, PropagationRules(step_size=0.5))
    with pytest.raises(ValueError, match=r"int has no device and no nb_features and no .* dwiml\.TrackingModel lists"):
        check_tracks(3, "Tracker")
