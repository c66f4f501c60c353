"""Figures of what an experiment logged."""
