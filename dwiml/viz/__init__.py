"""Figures of what an experiment logged."""

from dwiml.matplotlib_backend import import_matplotlib

# Before the modules of this room import it.
import_matplotlib()
