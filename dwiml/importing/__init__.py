"""Experiments of dwi_ml 1.0 as experiments of dwiml: models, weights and logs, without running code of a file."""
