"""How Sphinx builds these pages."""

import dwiml

project = "dwiml"
author = "The dwiml developers"
project_copyright = "The dwiml developers"
version = release = dwiml.__version__

extensions = ["sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"dwiml {release}"

# Class pages list what a class defines, not all that it inherits from torch.
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
numpydoc_show_class_members = False
