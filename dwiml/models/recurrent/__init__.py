"""Recurrent layers over sequences of different lengths: stacked, without padding, each thread with its own share."""
