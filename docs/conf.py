"""The documentation's site; `make docs` builds it."""

project = "paritas"
html_title = "paritas"
html_theme = "furo"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
autodoc_typehints = "description"
# The site shows diagrams as their source; GitHub draws them. Links from a page into the rest of the checkout
# lead nowhere on the site; tests/docs checks every link.
suppress_warnings = ["myst.xref_missing", "misc.highlighting_failure"]
