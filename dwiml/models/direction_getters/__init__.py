"""Direction getters: the last layers of a model, which predict a direction, and their loss functions."""

from __future__ import annotations

from dwiml.models.direction_getters.base import DirectionGetter, EOSLogitDirectionGetter
from dwiml.models.direction_getters.classification import SmoothSphereClassification, SphereClassification
from dwiml.models.direction_getters.gaussian import Gaussian, GaussianMixture
from dwiml.models.direction_getters.regression import CosinePlusL2Regression, CosineRegression, L2Regression
from dwiml.models.direction_getters.von_mises_fisher import FisherVonMises, FisherVonMisesMixture

__all__ = [
    "DIRECTION_GETTERS",
    "CosinePlusL2Regression",
    "CosineRegression",
    "DirectionGetter",
    "EOSLogitDirectionGetter",
    "FisherVonMises",
    "FisherVonMisesMixture",
    "Gaussian",
    "GaussianMixture",
    "L2Regression",
    "SmoothSphereClassification",
    "SphereClassification",
]

DIRECTION_GETTERS: dict[str, type[DirectionGetter]] = {
    "cosine-regression": CosineRegression,
    "l2-regression": L2Regression,
    "cosine-plus-l2-regression": CosinePlusL2Regression,
    "sphere-classification": SphereClassification,
    "smooth-sphere-classification": SmoothSphereClassification,
    "gaussian": Gaussian,
    "gaussian-mixture": GaussianMixture,
    "fisher-von-mises": FisherVonMises,
    "fisher-von-mises-mixture": FisherVonMisesMixture,
}
"""{dg_key: its class}. Add your own here, before you build a model: ``DIRECTION_GETTERS["mine"] = Mine``."""
