"""Builds the documentation: Sphinx, with the theme furo, from Markdown read by MyST.

Nothing here needs a network: there is no intersphinx, so names of other packages are not links.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent.parent))

project = "correlator"
author = "the correlator authors"
copyright = author

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "correlator"
html_copy_source = False

# Headings are link targets: `[threads](semantics.md#threads)`.
myst_heading_anchors = 3

# The docstrings are Google style; what stands in single backticks is the name of something.
default_role = "py:obj"
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

# Every name that a page or a signature refers to must have an entry, but for these.
nitpicky = True
nitpick_ignore_regex = [
    # Single backticks in docstrings name arguments too, and those have no entry.
    ("py:obj", r".*"),
    # Other people's names: without intersphinx there is nothing to link to.
    ("py:class", r"(aiohttp|collections|concurrent|contextlib|typing_extensions|yarl)\..*"),
    ("py:class", r"(asyncio|httpx|nats|opentelemetry|prometheus_client|redis|ssl)\..*"),
    ("py:exc", r"aiohttp\..*"),
    ("py:class", r"Webhook|web\.RouteDef"),
    # Type variables, and TypedDicts that only spell out arguments.
    ("py:class", r"(.*\.)?[KV]"),
    ("py:class", r".*\.(BrokerOptions|RequestOptions)"),
]


def break_first_line(
    _app: Sphinx, what: str, _name: str, _obj: object, _options: object, lines: list[str]
) -> None:
    """Keep napoleon from taking "Seconds it was given" for the type of an attribute.

    It takes what stands before a colon in the first line. So there is only one word in that line,
    and the paragraph stays the same.
    """
    if what in ("attribute", "property"):
        lines[:1] = lines[0].split(" ", 1)


def setup(app: Sphinx) -> None:
    """Run the above before napoleon, which runs at the default priority of 500."""
    app.connect("autodoc-process-docstring", break_first_line, priority=400)
