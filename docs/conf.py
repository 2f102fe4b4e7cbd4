"""How Sphinx builds the documentation: `python -m sphinx -W --keep-going docs docs/_build/html` in the checkout."""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import generate  # noqa: E402 # beside this file

from ddp_mlp import __version__  # noqa: E402

generate.write_pages(ROOT / "docs" / "_generated")

project = "ddp_mlp"
author = "the ddp_mlp authors"
copyright = "2026, the ddp_mlp authors"
release = version = __version__

extensions = ["mathml", "myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_math_renderer = "mathml"
exclude_patterns = ["_build", "_generated"]  # what is generated is included by other pages
root_doc = "index"

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "fieldlist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True


def as_restructured_text(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Turn a docstring, plain text with `code`, into what autodoc reads: ``code``, and no meaning in a trailing _."""
    lines[:] = [re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", re.sub(r"(\w)_(?=\W|$)", r"\1\\_", line)) for line in lines]


def setup(app: Any) -> None:
    """Register the above."""
    app.connect("autodoc-process-docstring", as_restructured_text)


autodoc_member_order = "bysource"
autodoc_typehints = "signature"

html_theme = "pydata_sphinx_theme"
html_title = f"ddp_mlp {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_center": [],  # one way to a page: the list of all at the left
    "navbar_end": ["theme-switcher"],
}
html_sidebars = {"**": ["globaltoc"]}
