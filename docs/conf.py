import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import jnn

project = "jnn"
author = "the jnn authors"
copyright = "the jnn authors, Apache-2.0"
version = release = jnn.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "catalogue"]
exclude_patterns = ["_build"]
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
smartquotes = False  # docstrings quote strings
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 100

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_ipywidgets_js = {}  # nothing is loaded from elsewhere

html_theme = "furo"
html_title = "jnn"
html_static_path = ["_static"]
html_css_files = ["jnn.css"]
html_copy_source = False
html_show_sourcelink = False
