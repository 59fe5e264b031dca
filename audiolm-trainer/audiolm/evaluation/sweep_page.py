"""The sweep's page: picture, table, what was compared.

In: the finished rows. Out: one HTML file that needs nothing else.
"""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from audiolm.evaluation.plain_page import build_document
from audiolm.evaluation.sweep_plan import SweepPlan
from audiolm.evaluation.sweep_table import SweepRow, format_rows


def build_sweep_page(
    plan: SweepPlan,
    rows: Sequence[SweepRow],
    notes: Sequence[str],
    machine: Mapping[str, Any],
    picture: str,
) -> str:
    """The whole page; `picture` is markup, all else is escaped."""
    lines = [line.strip("| ").split(" | ") for line in format_rows(rows).splitlines()]
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in ("", *lines[0]))
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>"
        for line in lines[2:]
    )
    told = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    file = json.dumps(plan.describe_file(), indent=1, ensure_ascii=False)
    what = f"{machine['device_name']}, {machine['num_threads']} threads"
    return build_document(
        f"Sweep {plan.name}",
        f"<p>{html.escape(what)}</p>{picture}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><ul>{told}</ul>"
        f"<details><summary>What was compared</summary><pre>{html.escape(file)}</pre></details>",
    )
