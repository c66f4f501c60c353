"""Define the bundles of the template: ten tubes around smooth center lines, in a box of about 96 mm.

A fiber has the same position (u, v) in the cross-section of its tube, a unit disk, from one end to the other::

    fiber(u, v, t) = center(t) + u * half_width_u(t) * axis_u(t) + v * half_width_v(t) * axis_v(t)

where t goes from 0 (start) to 1 (end), axis_u is the component of the fan axis orthogonal to the center line, and
axis_v is orthogonal to both. Fibers fan out where a half-width increases. The center line and the half-widths are cubic
splines through control points. Template space is in mm, with its origin at the center of the head, x to the right, y to
the front and z to the top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bundle:
    """A bundle: a tube of fibers. Its arrays are float64, in template space.

    Attributes
    ----------
    name
        Name of the bundle and of its tractogram.
    center
        Shape (K, 3): control points of the center line, mm.
    half_widths
        Shape (K, 2): half-widths of the elliptic cross-section along axis u and axis v, at the control points, mm.
    fan_axis
        Shape (3,): direction of axis u. It must not be parallel to the center line anywhere.
    """

    name: str
    center: Floats
    half_widths: Floats
    fan_axis: Floats

    @property
    def length(self) -> float:
        """Length of the center line, mm."""
        line = self.fibers(np.zeros((1, 2)), np.linspace(0, 1, 200))[0]
        return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())

    def fibers(self, disk: Floats, progress: Floats) -> Floats:
        """Compute the points of fibers.

        Parameters
        ----------
        disk
            Shape (F, 2), float64: position (u, v) of each fiber in the unit disk.
        progress
            Shape (T,), for all fibers, or (F, T), float64: increasing values of t, from 0 to 1.

        Returns
        -------
        array
            Shape (F, T, 3), float64: points in template space, mm.
        """
        chords = np.linalg.norm(np.diff(self.center, axis=0), axis=1)
        knots = np.concatenate([[0.0], np.cumsum(chords)]) / chords.sum()
        center_line = CubicSpline(knots, self.center)
        t = np.atleast_2d(progress)
        tangent = _unit(center_line(t, 1))
        axis_u = _unit(self.fan_axis - (tangent @ self.fan_axis)[..., None] * tangent)
        axis_v = np.cross(tangent, axis_u)
        # The widths vary slowly; a clamped spline does not overshoot at the ends.
        offsets = disk[:, None, :] * CubicSpline(knots, self.half_widths, bc_type="clamped")(t)
        points: Floats = center_line(t) + offsets[..., :1] * axis_u + offsets[..., 1:] * axis_v
        return points


def disk_grid(nb_u: int, nb_v: int) -> Floats:
    """Return the points of a regular grid of ``nb_u`` by ``nb_v`` cells that are in the unit disk.

    Returns
    -------
    array
        Shape (N, 2), float64, with N about ``nb_u * nb_v * pi / 4``.
    """
    u = (2 * np.arange(nb_u) + 1) / nb_u - 1
    v = (2 * np.arange(nb_v) + 1) / nb_v - 1
    grid = np.stack(np.meshgrid(u, v, indexing="ij"), axis=-1).reshape(-1, 2)
    disk: Floats = grid[(grid**2).sum(axis=1) <= 1]
    return disk


def disk_random(nb_points: int, radius: float, rng: np.random.Generator) -> Floats:
    """Draw points at random, uniformly in a disk centered at the origin.

    Returns
    -------
    array
        Shape (nb_points, 2), float64.
    """
    distance = radius * np.sqrt(rng.random(nb_points))
    angle = rng.random(nb_points) * 2 * np.pi
    return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)


def template_bundles() -> list[Bundle]:
    """Return the ten bundles of the template.

    Their order is fixed: the endpoint labels 2k + 1 and 2k + 2 of bundle k depend on it. Each of them poses a problem
    of tractography: ``arch`` crosses both fans and both hooks at about a right angle, ``sling`` crosses the fans near
    their narrow end, the two ``kiss`` bundles touch and then separate, the fans spread into a sheet, ``helix`` is not
    planar, and ``short_u`` turns back within 5 cm. The right bundles are mirror images of the left ones.
    """
    return [
        # From left to right, like the corpus callosum; the sheet is widest at its ends.
        _bundle(
            "arch",
            [(-35, 2, -8), (-31, 2, 4), (-19, 3, 13), (0, 4, 17), (19, 3, 13), (31, 2, 4), (35, 2, -8)],
            [(9, 3.5), (8, 3.5), (7, 3.5), (6, 3.5), (7, 3.5), (8, 3.5), (9, 3.5)],
            fan_axis=(0, 1, 0),
        ),
        # From the brain stem up to a wide sheet, like the corticospinal tract.
        *_pair(
            "fan",
            [(-8, -6, -38), (-9, -5, -22), (-13, -2, -4), (-18, 0, 14), (-22, 2, 34)],
            [(4, 4), (4, 4), (5, 4), (9, 4), (16, 4)],
            fan_axis=(0, 1, 0),
        ),
        # From the front to the back, then down and forward again, like the arcuate fasciculus.
        *_pair(
            "hook",
            [(-24, 36, -2), (-28, 20, 9), (-30, 2, 12), (-31, -17, 8), (-32, -25, -5), (-33, -18, -18), (-33, -8, -22)],
            [(4, 4), (4, 4), (4, 4), (4, 4), (4, 4), (4, 4), (5, 4)],
            fan_axis=(1, 0, 0),
        ),
        # From front to back above the arch; left and right touch at the midline without crossing it.
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
        # A curve through both fans, open to the top, like the fibers of the pons.
        _bundle(
            "sling",
            [(-30, 7, -15), (-18, -3, -25), (0, -7, -30), (18, -3, -25), (30, 7, -15)],
            [(4, 3.5), (4, 3.5), (4, 3.5), (4, 3.5), (4, 3.5)],
            fan_axis=(0, 1, 0),
        ),
    ]


def _helix() -> Bundle:
    """Return one turn of a helix of radius 8 mm around the line x = 0, z = -10 mm, from y = -42 mm to y = -14 mm."""
    turn = np.linspace(0, 1, 13)
    angle = 2 * np.pi * turn
    center = np.stack([8 * np.sin(angle), -42 + 28 * turn, -10 - 8 * np.cos(angle)], axis=1)
    return Bundle("helix", center, np.full((len(turn), 2), 3.5), np.array([0.0, 1.0, 0.0]))


def _bundle(
    name: str,
    center: list[tuple[float, float, float]],
    half_widths: list[tuple[float, float]],
    *,
    fan_axis: tuple[float, float, float],
) -> Bundle:
    return Bundle(name, np.array(center, float), np.array(half_widths, float), np.array(fan_axis, float))


def _pair(
    name: str,
    center: list[tuple[float, float, float]],
    half_widths: list[tuple[float, float]],
    *,
    fan_axis: tuple[float, float, float],
) -> list[Bundle]:
    """Return the left bundle, defined by the arguments, and its mirror image."""
    left = _bundle(f"{name}_left", center, half_widths, fan_axis=fan_axis)
    mirror = np.array([-1.0, 1.0, 1.0])
    return [left, Bundle(f"{name}_right", left.center * mirror, left.half_widths, left.fan_axis * mirror)]


def _unit(vectors: Floats) -> Floats:
    units: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units
