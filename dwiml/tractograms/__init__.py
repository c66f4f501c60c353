"""Files of streamlines: what they say of themselves, held against what is in them."""
