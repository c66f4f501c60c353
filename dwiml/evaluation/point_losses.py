"""The loss of a model, and its other errors, at the points of streamlines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dwiml.arguments import check_choice
from dwiml.ops import ragged

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]

COLOR_BY = ("loss", "displacement_mm", "eos_error")
"""What the color of a tractogram may show."""
THIRDS = ("first", "middle", "last")
"""The thirds of a streamline."""


@dataclass(frozen=True)
class PointLosses:
    """Losses at the P points of S streamlines, concatenated.

    Attributes
    ----------
    lengths : (S,) int64
        Number of points of each streamline, after resampling.
    loss : (P,) float32
        Loss of the step that starts at the point. NaN where there is no step: at repeated points, and at the last point
        of a streamline unless the model learns where streamlines end (EOS).
    eos_probability : (P,) float32, optional
        Probability that the streamline ends at the point; None if the model does not predict it.
    displacement_mm : (P,) float32, optional
        Distance (mm) between the next point and the point that a step of the same length in the model's direction
        reaches. NaN where there is no step, or the model has no direction; None if it never has one.
    """

    lengths: Integers
    loss: Floats
    eos_probability: Floats | None
    displacement_mm: Floats | None = None

    @property
    def offsets(self) -> Integers:
        """Index of the first point of each streamline; shape (S,), int64."""
        return ragged.offsets(self.lengths)

    @property
    def is_last(self) -> npt.NDArray[np.bool_]:
        """Which points are the last of their streamline; shape (P,), bool."""
        is_last = np.zeros(len(self.loss), dtype=bool)
        is_last[ragged.last_rows(self.lengths)] = True
        return is_last

    @property
    def eos_error(self) -> Floats | None:
        """Error of the EOS probability, from 0 to 1: \\|probability - 1\\| at last points, the probability elsewhere.

        Shape (P,), float32; None if the model does not predict the end.
        """
        if self.eos_probability is None:
            return None
        return np.abs(self.eos_probability - self.is_last.astype(np.float32))

    def streamline_means(self) -> npt.NDArray[np.float64]:
        """Return the mean loss of each streamline, shape (S,), float64; NaN for streamlines without a loss."""
        ids = ragged.sequence_ids(self.lengths)
        has_loss = ~np.isnan(self.loss)
        sums = np.bincount(ids[has_loss], weights=self.loss[has_loss], minlength=len(self.lengths))
        counts = np.bincount(ids[has_loss], minlength=len(self.lengths))
        means: npt.NDArray[np.float64] = np.full(len(sums), np.nan)
        return np.divide(sums, counts, out=means, where=counts > 0)

    def eos_probabilities_by_place(self) -> tuple[Floats, Floats] | None:
        """Return the EOS probabilities at the last points (S,) and at all other points; None if there are none."""
        if self.eos_probability is None:
            return None
        is_last = self.is_last
        return self.eos_probability[is_last], self.eos_probability[~is_last]

    def by_third(self, values: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the values in the first, the middle and the last third of each streamline, without NaN.

        In a streamline of n steps, the point with index i (from 0) is in the first third if 3 i < n, in the middle one
        if 3 i < 2 n, and otherwise in the last one, as is always the last point of a streamline (i = n).

        Parameters
        ----------
        values
            Shape (P,), float32: values at the points, such as :attr:`loss`.
        """
        places = 3 * ragged.positions(self.lengths)
        nb_steps = np.repeat(self.lengths - 1, self.lengths)
        third = (places >= nb_steps).astype(np.int64) + (places >= 2 * nb_steps)
        known = ~np.isnan(values)
        first, middle, last = (values[known & (third == number)] for number in range(3))
        return first, middle, last

    def filled(self, values: Floats | None = None) -> Floats:
        """Return values at the points (P,), with NaN replaced by the previous value in the streamline, if there is one.

        Parameters
        ----------
        values
            Shape (P,), float32; None for the losses.
        """
        values = self.loss if values is None else values
        starts = np.repeat(self.offsets, self.lengths)
        known = np.where(np.isnan(values), -1, np.arange(len(values)))
        source = np.maximum.accumulate(known) if len(known) else known
        return np.where(source >= starts, values[source], np.float32(np.nan))

    @property
    def has_steps(self) -> bool:
        """Whether there is a loss before the last point of a streamline."""
        before_last = np.ones(len(self.loss), dtype=bool)
        before_last[ragged.last_rows(self.lengths)] = False
        return bool((~np.isnan(self.loss[before_last])).any())

    def data_per_point(self) -> dict[str, Floats]:
        """Return {name: values (P,)} for the points of a tractogram: those that the model has.

        A point without a loss or a displacement, such as the last one, has the value of the point before it.
        """
        found = {"loss": self.filled()}
        if self.displacement_mm is not None:
            found["displacement_mm"] = self.filled(self.displacement_mm)
        error = self.eos_error
        if self.eos_probability is not None and error is not None:
            found |= {"eos_probability": self.eos_probability, "eos_error": error}
        return found

    def values_for_color(self, color_by: str) -> Floats:
        """Return what a color shows, shape (P,), float32, with NaN where there is no value.

        Parameters
        ----------
        color_by
            One of :data:`COLOR_BY`.

        Raises
        ------
        ValueError
            If the name is unknown, or the model has no such values; the message lists those that it has.
        """
        check_choice("color_by", color_by, COLOR_BY)
        found = dict(zip(COLOR_BY, (self.loss, self.displacement_mm, self.eos_error), strict=True))
        values = found[color_by]
        if values is None:
            existing = " or ".join(f"color_by={name!r}" for name, each in found.items() if each is not None)
            raise ValueError(f"The model has no {color_by}; give {existing}.")
        return values
