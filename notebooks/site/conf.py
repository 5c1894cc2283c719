"""How sphinx makes the site of executed notebooks, whose sources `python -m nbutils site` lays out.

Nothing comes from another server: formulas become MathML, which the browser draws itself, and the
search needs no more than the pages, so the site opens from a folder and without a network.
"""

import html
import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

project = "Does saliency really detect adversarial examples?"
language = "en"
extensions = ["myst_nb"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks are executed; they are only shown
nb_render_markdown_format = "myst"  # outputs in markdown have tables and formulas as cells have
nb_ipywidgets_js = {}  # these would be loaded from another server, and no notebook has widgets

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["site.css", "site.js"]
html_css_files, html_js_files = ["site.css"], ["site.js"]
html_math_renderer = "mathml"
html_copy_source = html_show_sourcelink = False
html_show_copyright = html_show_sphinx = html_use_index = False
html_show_search_summary = False  # a browser reads no second page from a page in a folder
html_context = {"default_mode": "auto"}  # dark where the reader's system is
html_theme_options = {
    "logo": {"text": "Saliency and adversarial examples"},
    "home_page_in_toc": True,
    "navbar_persistent": [],
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "footer_content_items": [],
    "search_bar_text": "Search these pages",
}

# What docutils' reader of LaTeX does not know, or reads in another way than LaTeX, as it knows it.
TEX = (
    (r"(\\[bB]ig)(\\l[vV]ert|[(\[])", r"\1l\2"),  # brackets that do not say their side
    (r"(\\[bB]ig)(\\r[vV]ert|[)\]])", r"\1r\2"),
    (r"\\textbf\{", r"\\mathbf{"),
    (r"(\\[tdc]?frac)\s*(\d)\s*(\d)", r"\1{\2}{\3}"),  # \frac12 is a half
    (r"([_^])(\d)(?=\d)", r"\1{\2}"),
)
# What it writes in another way than browsers draw: a line over a term (see site.css), and the bars
# of a norm, which are as high as a letter and stand close, unless they are \left and \right.
MATHML = ((r'<mo accent="true">_</mo>', '<mo class="overline">‾</mo>'),)
BARS = (
    (r'<mo class="mathopen">([|‖])</mo>', r'<mo form="prefix" stretchy="false">\1</mo>'),
    (r"<mo>([|‖])</mo>", r'<mo form="postfix" stretchy="false">\1</mo>'),
)


def mathml(tex: str, block: bool = False) -> str:
    """A formula in LaTeX as MathML.

    Raises:
        MathError: docutils does not know a command in it.
    """
    for known, own in TEX:
        tex = re.sub(known, own, tex)
    drawn = tex2mathml(tex, as_block=block).replace("\n", "")
    for known, own in MATHML + (() if r"\right" in tex else BARS):
        drawn = re.sub(known, own, drawn)
    return drawn


def _visit(translator: nodes.NodeVisitor, node: nodes.math | nodes.math_block) -> None:
    block = isinstance(node, nodes.math_block)
    try:
        drawn = mathml(node.astext(), block)
    except MathError as error:
        logging.getLogger(__name__).warning("%s in %s", error, node.astext(), location=node)
        drawn = html.escape(node.astext())
    kind, more = ("div", ' tabindex="0"') if block else ("span", "")  # a wide one is scrolled
    translator.body.append(f'<{kind} class="formula"{more}>{drawn}</{kind}>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Called by sphinx: how formulas are drawn."""
    app.add_html_math_renderer("mathml", (_visit, None), (_visit, None))
