"""Figures of experiments, scores and tractograms."""

from dwiml.matplotlib_backend import import_matplotlib

# Before the modules of this package import it.
import_matplotlib()
