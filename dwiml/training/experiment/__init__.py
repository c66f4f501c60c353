"""An experiment's folder: what is written there, by whom, and how it is taken up again."""
