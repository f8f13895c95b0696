"""Sphinx settings of the course's website; emrrg_lib/course/book.py prepares its source folder."""

project = "The EMRRG course"
html_title = project
author = "The EMRRG kit authors"
copyright = f"{author}, MIT licence"  # noqa: A001
extensions = ["myst_nb", "sphinx-mathjax-offline"]
exclude_patterns = ["kit/**/*.csv"]
nb_execution_mode = "off"  # the outputs are the stored ones
nb_ipywidgets_js = {}  # nothing is loaded from the network
myst_enable_extensions = ["dollarmath", "amsmath"]
nb_render_markdown_format = "myst"  # tables in outputs, such as the glossary
myst_heading_anchors = 3
myst_heading_slug_func = "emrrg_lib.course.book.anchor"  # the notebooks link as JupyterLab does
suppress_warnings = ["toc.not_included"]  # pages of code
html_theme = "sphinx_book_theme"
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # the search is in the side bar
    "show_navbar_depth": 1,
    "home_page_in_toc": True,
}
html_css_files = ["course.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # it would be fetched, which no browser does from a folder
