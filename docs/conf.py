"""The documentation site: `sphinx-build -W docs FOLDER` (extra `docs`)."""

import shutil
from pathlib import Path

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

# A page for each page of `results/`, in the same folders, so that their links to each other hold.
DOCS = Path(__file__).parent
PAGES = sorted((DOCS.parent / "results").glob("*/*.md"))
# Pages that are gone in `results/` go here, too.
shutil.rmtree(DOCS / "results", ignore_errors=True)
for page in PAGES:
    name = page.relative_to(DOCS.parent)
    (DOCS / name).parent.mkdir(parents=True, exist_ok=True)
    # Logs are reached from the claims only.
    front = "" if page.name == "README.md" else "---\norphan: true\n---\n"
    (DOCS / name).write_text(f"{front}```{{include}} ../../../{name.as_posix()}\n:relative-images:\n```\n")
claims = "\n".join(f"{page.parent.name}/README" for page in PAGES if page.name == "README.md")
(DOCS / "results" / "index.md").write_text(
    "# Results\n\nOne page each: the claim, its figure and table, its limits, and the commands.\n\n"
    f"```{{toctree}}\n:maxdepth: 1\n\n{claims}\n```\n"
)
suppress_warnings = ["myst.header"]

copybutton_exclude = ".linenos, .gp"
