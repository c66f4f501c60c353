"""What the numbers of directional features mean: the axes, the basis, the order of the coefficients.

Axes
    ``voxel``: along the axes of the array, in mm (x along the first axis, ...). ``rasmm``: the scanner's right,
    anterior and superior axes, as in MRtrix. ``fsl``: those of FSL's bvecs, which are the voxel axes with x mirrored if
    the determinant of the affine is positive.
Kinds
    ``sh``: coefficients of spherical harmonics. ``peaks``: vectors (x, y, z), one after the other. ``tensor``: the six
    coefficients of a symmetric tensor. ``none``: nothing that depends on directions.

References
----------
Descoteaux, Angelino, Fitzgibbons and Deriche (2007), Regularized, fast, and robust analytical Q-ball imaging,
doi:10.1002/mrm.21277 (basis ``descoteaux07``). Tournier et al. (2019), MRtrix3,
doi:10.1016/j.neuroimage.2019.116137 (basis ``tournier07``). FSL documentation, FDT user guide, "What conventions do the
bvecs use?" (axes ``fsl``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dwiml.arguments import quoted, shown

KINDS = ("sh", "peaks", "tensor", "none")
AXES = ("voxel", "rasmm", "fsl")
BASES = ("descoteaux07", "tournier07")
# Positions of xx, xy, yy, xz, yz, zz in the order of each program.
TENSOR_ORDERS = {"dipy": (0, 1, 2, 3, 4, 5), "mrtrix": (0, 3, 1, 4, 5, 2), "fsl": (0, 1, 3, 2, 4, 5)}
"""{order of the coefficients of a tensor: positions of xx, xy, yy, xz, yz, zz}."""
_KEYS = {
    "sh": ("kind", "axes", "basis", "legacy", "full_basis"),
    "peaks": ("kind", "axes"),
    "tensor": ("kind", "axes", "order"),
    "none": ("kind",),
}
# Far above any degree in use; the directions of the conversion are enough for it.
_MAX_ORDER = 20
_EXAMPLE = '{"kind": "sh", "axes": "voxel", "basis": "descoteaux07", "legacy": true}'


@dataclass(frozen=True, kw_only=True)
class Directions:
    """The convention of the features of one image.

    Attributes
    ----------
    kind
        One of :data:`KINDS`.
    axes
        One of :data:`AXES`.
    basis
        For spherical harmonics, one of :data:`BASES`; otherwise empty.
    legacy
        For spherical harmonics: the former definition of the basis in DIPY (``descoteaux07``) or in MRtrix 0.2
        (``tournier07``).
    full_basis
        For spherical harmonics: odd degrees are included.
    order
        For tensors, a key of :data:`TENSOR_ORDERS`; otherwise empty.
    """

    kind: str
    axes: str = "voxel"
    basis: str = ""
    legacy: bool = False
    full_basis: bool = False
    order: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the convention as in a groups config, with all keys of its kind."""
        return {key: getattr(self, key) for key in _KEYS[self.kind]}

    @property
    def stored(self) -> Directions:
        """The convention after conversion: voxel axes, ``descoteaux07`` without legacy, DIPY's order of tensors."""
        basis = {"sh": "descoteaux07"}.get(self.kind, "")
        order = {"tensor": "dipy"}.get(self.kind, "")
        return replace(self, axes="voxel", basis=basis, legacy=False, order=order)

    def check_nb_features(self, nb: int, label: str) -> None:
        """Check that an image of this convention can have this number of features.

        Parameters
        ----------
        nb
            Number of features.
        label
            Beginning of the error message.

        Raises
        ------
        ValueError
            If it cannot.
        """
        if self.kind == "peaks" and nb % 3:
            raise ValueError(f"{label} has {nb} features, but peaks have three each; correct 'directions'.")
        if self.kind == "tensor" and nb != 6:
            raise ValueError(f"{label} has {nb} features, but a tensor has 6; correct 'directions'.")
        order = sh_order(nb, full_basis=self.full_basis)
        if self.kind == "sh" and (order is None or order > _MAX_ORDER):
            counts = "1, 4, 9, 16, 25, ..." if self.full_basis else "1, 6, 15, 28, 45, ..."
            raise ValueError(
                f"{label} has {nb} features, but spherical harmonics"
                f"{' of a full basis' * self.full_basis} have {counts}; correct 'directions'."
            )


def sh_order(nb: int, *, full_basis: bool = False) -> int | None:
    """Return the largest degree of `nb` coefficients of spherical harmonics, or None if there is none.

    Without ``full_basis``, there are even degrees only: (L + 1) (L + 2) / 2 coefficients; with it, (L + 1) squared.
    """
    if nb < 1:
        return None
    if full_basis:
        order = math.isqrt(nb) - 1
        return order if (order + 1) ** 2 == nb else None
    order = (math.isqrt(8 * nb + 1) - 3) // 2
    return order if order % 2 == 0 and (order + 1) * (order + 2) == 2 * nb else None


def parse_directions(value: Any, label: str) -> Directions:
    """Read and check a convention.

    Parameters
    ----------
    value
        As in a groups config: {"kind": ..., "axes": ..., ...}.
    label
        Beginning of error messages.

    Raises
    ------
    ValueError
        If a key is missing, unknown or has another value than those allowed.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{label}: 'directions' must be an object, for example {_EXAMPLE}, got {shown(value)}.")
    kind = _choice(value, "kind", KINDS, label)
    unknown = [key for key in value if key not in _KEYS[kind]]
    if unknown:
        raise ValueError(
            f"{label}: 'directions' has the unknown key {quoted(unknown)}; those of kind '{kind}' are: "
            f"{quoted(_KEYS[kind])}."
        )
    if kind == "none":
        return Directions(kind=kind)
    axes = _choice(value, "axes", AXES, label)
    if kind == "peaks":
        return Directions(kind=kind, axes=axes)
    if kind == "tensor":
        return Directions(kind=kind, axes=axes, order=_choice(value, "order", tuple(TENSOR_ORDERS), label))
    basis = _choice(value, "basis", BASES, label)
    if basis == "descoteaux07" and "legacy" not in value:
        raise ValueError(
            f"{label}: 'directions' has no 'legacy': DIPY has two versions of the basis descoteaux07; give true for "
            "DIPY's default, or false if the coefficients were computed with legacy=False."
        )
    flags = {key: value.get(key, False) for key in ("legacy", "full_basis")}
    for key, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"{label}: '{key}' of 'directions' must be true or false, got {shown(flag)}.")
    return Directions(kind=kind, axes=axes, basis=basis, **flags)


def _choice(value: Mapping[str, Any], key: str, allowed: tuple[str, ...], label: str) -> str:
    if key not in value:
        raise ValueError(f"{label}: 'directions' has no '{key}'; give one of {quoted(allowed)}.")
    given = value[key]
    if not isinstance(given, str) or given not in allowed:
        raise ValueError(f"{label}: '{key}' of 'directions' must be one of {quoted(allowed)}, got {shown(given)}.")
    return given
