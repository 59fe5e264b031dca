"""A self-contained HTML page in the reports' look. In: a title and markup. Out: the page."""

import html

from audiolm.evaluation.report_style import STYLE

WIDE_PICTURES = "svg { width: 100%; max-width: 1000px; } svg text { font-size: 12px; }"


def build_document(title: str, content: str) -> str:
    """The whole page; `content` is markup."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{WIDE_PICTURES}</style></head>"
        f"<body><main><h1>{html.escape(title)}</h1>{content}</main></body></html>\n"
    )
