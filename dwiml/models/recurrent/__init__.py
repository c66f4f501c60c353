"""Recurrent layers over sequences of different lengths: stacked, without padding, computed in parallel."""
