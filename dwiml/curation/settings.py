"""The settings of a curation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from dwiml.arguments import check_choice, check_number, check_whole
from dwiml.ops.randomness import check_seed, draw_seed

MAX_MDF_MM = 5.0
POWER = 1.0
CHOICES = ("coverage", "random")

Progress: TypeAlias = "Callable[[str, int], AbstractContextManager[Callable[[int], None]]]"
"""Function of (title, total number of streamlines): a context that gives the function to call with those finished."""


@contextmanager
def no_progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show no progress."""
    yield lambda nb: None


@dataclass(frozen=True, kw_only=True)
class CurationSettings:
    """Which streamlines of a bundle are kept, and how many.

    Attributes
    ----------
    min_confidence
        Smallest cluster confidence of a streamline that is kept; see
        :func:`~dwiml.curation.confidence.cluster_confidence`. None: no outliers are removed, because the confidence
        grows with the number of streamlines, and a threshold for one data set would remove the small bundles of
        another.
    max_mdf
        Largest distance (MDF, mm) of two streamlines that support each other.
    power
        Power of the distance in the confidence.
    max_streamlines
        Largest number of streamlines of a bundle; None for no limit.
    max_mm
        Largest total length of the streamlines of a bundle, in mm, repeats included; None for no limit. At least one
        streamline is kept.
    min_streamlines
        Smallest number of streamlines of a bundle: those of a smaller one are repeated, within `max_mm`. None: no
        repeats.
    choose
        How the streamlines of a bundle with too many are drawn: ``"coverage"``, with weights that favor voxels crossed
        by few of them (:func:`~dwiml.curation.drawing.coverage_weights`), or ``"random"``, with equal weights.
    seed
        Seed of all random choices; None draws one.

    Raises
    ------
    ValueError
        If a value is invalid, or the smallest number is larger than the largest one.
    """

    min_confidence: float | None = None
    max_mdf: float = MAX_MDF_MM
    power: float = POWER
    max_streamlines: int | None = None
    max_mm: float | None = None
    min_streamlines: int | None = None
    choose: str = "coverage"
    seed: int = field(default_factory=draw_seed)

    def __post_init__(self) -> None:
        if self.min_confidence is not None:
            check_number("min_confidence", self.min_confidence, low=0)
        for name in ("max_mdf", "power"):
            check_number(name, getattr(self, name), low=0, low_included=False)
        if self.max_mm is not None:
            check_number("max_mm", self.max_mm, low=0, low_included=False)
        for name in ("max_streamlines", "min_streamlines"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), low=1)
        if self.min_streamlines and self.max_streamlines and self.min_streamlines > self.max_streamlines:
            raise ValueError(
                f"min_streamlines must be at most max_streamlines, {self.max_streamlines}; got {self.min_streamlines}."
            )
        check_choice("choose", self.choose, CHOICES)
        seed = check_seed(self.seed)
        object.__setattr__(self, "seed", draw_seed() if seed is None else seed)
