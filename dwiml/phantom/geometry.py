"""The bundles of the template: ten tubes around smooth centre lines, in a box of about 96 mm.

A fibre of a bundle keeps its place (u, v) in the tube's cross-section, a unit disc, from one end to the other::

    fibre(u, v, t) = centre(t) + u * half_width_u(t) * axis_u(t) + v * half_width_v(t) * axis_v(t)

with t from 0 (start) to 1 (end), axis_u the bundle's fan axis made orthogonal to the centre line, and axis_v orthogonal
to both. Fibres fan out where a half-width grows. Centre line and half-widths are cubic splines through the control
points written below. Template space: mm, origin in the middle, x to the right, y to the front, z to the top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bundle:
    """A tube of fibres.

    Attributes
    ----------
    name
        Name of the bundle and of its tractogram.
    centre : (K, 3)
        Control points of the centre line, in template mm.
    half_widths : (K, 2)
        Half-widths of the elliptic cross-section at the control points along axis u and axis v, in mm.
    fan_axis : (3,)
        Direction of axis u, nowhere parallel to the centre line.
    """

    name: str
    centre: Floats
    half_widths: Floats
    fan_axis: Floats

    @property
    def length(self) -> float:
        """Length of the centre line, in mm."""
        line = self.fibres(np.zeros((1, 2)), np.linspace(0, 1, 200))[0]
        return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())

    def fibres(self, disc: Floats, progress: Floats) -> Floats:
        """Draw fibres.

        Parameters
        ----------
        disc : (F, 2)
            Place (u, v) of each fibre in the unit disc.
        progress : (T,) or (F, T)
            Values of t, increasing: the same for all fibres, or a row for each.

        Returns
        -------
        (F, T, 3)
            Points in template mm.
        """
        chords = np.linalg.norm(np.diff(self.centre, axis=0), axis=1)
        knots = np.concatenate([[0.0], np.cumsum(chords)]) / chords.sum()
        centre_line = CubicSpline(knots, self.centre)
        t = np.atleast_2d(progress)
        tangent = _unit(centre_line(t, 1))
        axis_u = _unit(self.fan_axis - (tangent @ self.fan_axis)[..., None] * tangent)
        axis_v = np.cross(tangent, axis_u)
        # The widths change slowly; a clamped spline keeps them from overshooting at the ends.
        offsets = disc[:, None, :] * CubicSpline(knots, self.half_widths, bc_type="clamped")(t)
        points: Floats = centre_line(t) + offsets[..., :1] * axis_u + offsets[..., 1:] * axis_v
        return points


def disc_grid(nb_u: int, nb_v: int) -> Floats:
    """Spread points over the unit disc, (about nb_u * nb_v * pi / 4, 2): a grid of nb_u by nb_v cells, cut round."""
    u = (2 * np.arange(nb_u) + 1) / nb_u - 1
    v = (2 * np.arange(nb_v) + 1) / nb_v - 1
    grid = np.stack(np.meshgrid(u, v, indexing="ij"), axis=-1).reshape(-1, 2)
    disc: Floats = grid[(grid**2).sum(axis=1) <= 1]
    return disc


def disc_random(nb_points: int, radius: float, rng: np.random.Generator) -> Floats:
    """Draw points uniformly in a disc, (nb_points, 2)."""
    distance = radius * np.sqrt(rng.random(nb_points))
    angle = rng.random(nb_points) * 2 * np.pi
    return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)


def template_bundles() -> list[Bundle]:
    """Make the ten bundles, always in this order (the endpoint labels 2k + 1 and 2k + 2 depend on it).

    What they have to teach: ``arch`` crosses both fans and both hooks at about a right angle, ``sling`` crosses the
    fans near their narrow end, the two kissing bundles touch and part again, the fans spread to a sheet, ``helix``
    lies in no plane, ``short_u`` turns back within 5 cm. Right is the mirror image of left.
    """
    return [
        # A bridge from left to right, as the corpus callosum; its sheet is widest at the ends.
        _bundle(
            "arch",
            [(-35, 2, -8), (-31, 2, 4), (-19, 3, 13), (0, 4, 17), (19, 3, 13), (31, 2, 4), (35, 2, -8)],
            [(9, 3.5), (8, 3.5), (7, 3.5), (6, 3.5), (7, 3.5), (8, 3.5), (9, 3.5)],
            fan_axis=(0, 1, 0),
        ),
        # From the brain stem up to a wide sheet, as the corticospinal tract.
        *_pair(
            "fan",
            [(-8, -6, -38), (-9, -5, -22), (-13, -2, -4), (-18, 0, 14), (-22, 2, 34)],
            [(4, 4), (4, 4), (5, 4), (9, 4), (16, 4)],
            fan_axis=(0, 1, 0),
        ),
        # From the front, back and around, then forward again lower down, as the arcuate fasciculus.
        *_pair(
            "hook",
            [(-24, 36, -2), (-28, 20, 9), (-30, 2, 12), (-31, -17, 8), (-32, -25, -5), (-33, -18, -18), (-33, -8, -22)],
            [(4, 4), (4, 4), (4, 4), (4, 4), (4, 4), (4, 4), (5, 4)],
            fan_axis=(1, 0, 0),
        ),
        # Both run from front to back over the arch and touch at the midline without crossing it.
        *_pair(
            "kiss",
            [(-21, 38, 13), (-11, 22, 26), (-3.4, 4, 31), (-11, -14, 28), (-23, -31, 16)],
            [(4, 4), (4, 4), (4, 4), (4, 4), (4, 4)],
            fan_axis=(0.3, 0, 1),
        ),
        _helix(),
        _bundle(
            "short_u",
            [(-13, 40, -8), (-9, 28, -14), (0, 23, -16), (9, 28, -14), (13, 40, -8)],
            [(4, 3), (3.5, 3), (3.5, 3), (3.5, 3), (4, 3)],
            fan_axis=(0, 0.45, -1),
        ),
        # A cup under the head, as the fibres of the pons, through both fans.
        _bundle(
            "sling",
            [(-30, 7, -15), (-18, -3, -25), (0, -7, -30), (18, -3, -25), (30, 7, -15)],
            [(4, 3.5), (4, 3.5), (4, 3.5), (4, 3.5), (4, 3.5)],
            fan_axis=(0, 1, 0),
        ),
    ]


def _helix() -> Bundle:
    """One turn of a helix: radius 8 mm around the y axis at z = -10, from y = -42 to y = -14."""
    turn = np.linspace(0, 1, 13)
    angle = 2 * np.pi * turn
    centre = np.stack([8 * np.sin(angle), -42 + 28 * turn, -10 - 8 * np.cos(angle)], axis=1)
    return Bundle("helix", centre, np.full((len(turn), 2), 3.5), np.array([0.0, 1.0, 0.0]))


def _bundle(
    name: str,
    centre: list[tuple[float, float, float]],
    half_widths: list[tuple[float, float]],
    *,
    fan_axis: tuple[float, float, float],
) -> Bundle:
    return Bundle(name, np.array(centre, float), np.array(half_widths, float), np.array(fan_axis, float))


def _pair(
    name: str,
    centre: list[tuple[float, float, float]],
    half_widths: list[tuple[float, float]],
    *,
    fan_axis: tuple[float, float, float],
) -> list[Bundle]:
    """Make the left bundle as written, and its mirror image."""
    left = _bundle(f"{name}_left", centre, half_widths, fan_axis=fan_axis)
    mirror = np.array([-1.0, 1.0, 1.0])
    return [left, Bundle(f"{name}_right", left.centre * mirror, left.half_widths, left.fan_axis * mirror)]


def _unit(vectors: Floats) -> Floats:
    units: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units
