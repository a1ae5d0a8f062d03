"""Sphinx configuration of the hpcblaz documentation."""

import runpy
from pathlib import Path

project = "hpcblaz"
author = "The hpcblaz developers"
copyright = author
release = version = runpy.run_path(str(Path(__file__).parents[1] / "hpcblaz" / "_version.py"))["__version__"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode", "numpydoc"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings state the types, with shapes and units
numpydoc_show_class_members = False  # autodoc lists them already
# A docstring may list a reference that its text does not cite by number.
suppress_warnings = ["ref.citation", "ref.footnote"]

html_theme = "furo"
html_title = f"hpcblaz {release}"
