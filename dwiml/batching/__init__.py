"""Stage 3, choose: select the streamlines of each batch and prepare what the model receives."""
