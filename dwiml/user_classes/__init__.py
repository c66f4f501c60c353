"""Classes that users name: those of a file, of a module, or of an installed package."""
