"""Tractograms written as they are made."""
