"""The documentation site: `sphinx-build -W docs FOLDER` (extra `docs`)."""

from wm_jax import __version__

project = "wm_jax"
author = "The wm_jax developers"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"wm_jax {__version__}"
# Docstrings write names in single backticks.
default_role = "py:obj"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
copybutton_exclude = ".linenos, .gp"
