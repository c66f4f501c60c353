"""A stand-in for the module ``comet_ml``, which keeps what it receives."""

from __future__ import annotations

import time
import types
from typing import Any


class FakeExperiment:
    url = "https://comet.test/team/tracts/key"

    def __init__(self, fake: FakeComet, options: dict[str, Any]) -> None:
        self.fake, self.options = fake, options
        self.parameters: dict[str, Any] = {}
        self.metrics: list[tuple[dict[str, float], int, int]] = []
        self.figures: dict[str, Any] = {}
        self.ended = False

    def log_parameters(self, parameters: dict[str, Any]) -> None:
        self.fake.fail_if_asked("log_parameters")
        self.parameters |= parameters

    def log_metrics(self, metrics: dict[str, float], *, step: int, epoch: int) -> None:
        self.fake.fail_if_asked("log_metrics")
        self.metrics.append((metrics, step, epoch))

    def log_figure(self, *, figure_name: str, figure: Any, overwrite: bool) -> None:
        assert overwrite, "a second start of a training would add another one"
        self.figures[figure_name] = figure

    def flush(self) -> bool:
        return True

    def end(self) -> None:
        self.fake.fail_if_asked("end")
        self.ended = True


class FakeComet(types.ModuleType):
    """Stands in for the module comet_ml; ``failing`` names the call that raises, ``hanging`` the one that hangs."""

    def __init__(self, api_key: str | None = "secret") -> None:
        super().__init__("comet_ml")
        self.failing = self.hanging = ""
        self.experiments: list[FakeExperiment] = []
        self.config = types.SimpleNamespace(
            get_config=dict,
            get_api_key=lambda given, config: api_key,
            get_backend_address=lambda: "https://comet.test/clientlib/",
        )

    def fail_if_asked(self, call: str) -> None:
        if self.hanging == call:
            time.sleep(30)
        if self.failing == call:
            raise RuntimeError(f"Comet's {call} is broken")

    def ExperimentConfig(self, **options: Any) -> dict[str, Any]:
        return options

    def start(self, **options: Any) -> FakeExperiment:
        self.fail_if_asked("start")
        self.experiments.append(FakeExperiment(self, options))
        return self.experiments[-1]
