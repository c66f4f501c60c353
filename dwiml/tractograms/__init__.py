"""Files of streamlines: opened, and compared with what their headers announce."""
