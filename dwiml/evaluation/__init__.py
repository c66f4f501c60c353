"""Evaluate trained models point by point along true streamlines."""
