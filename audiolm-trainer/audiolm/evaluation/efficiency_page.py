"""The efficiency report as one HTML file that needs nothing else.

In: the plain values of `efficiency_report.build_report`. Out: the page, beside the JSON.
"""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audiolm.evaluation.efficiency_charts import draw_phases
from audiolm.evaluation.efficiency_report import reserve_name
from audiolm.evaluation.efficiency_tables import format_report
from audiolm.evaluation.plain_page import build_document
from audiolm.evaluation.workload import PHASES


def build_page(report: Mapping[str, Any]) -> str:
    """Picture, tables, configuration."""
    machine = report["machine"]
    is_measured = any("error" not in case for case in report["cases"])
    picture = draw_phases(report["cases"], PHASES) if is_measured else ""
    what = html.escape(
        f"{machine['device_name']}; {report['created']}; commit {report['commit'] or 'unknown'}"
    )
    return build_document(
        "Efficiency",
        f"<p>{what}</p>{picture}<h2>Numbers</h2><pre>{html.escape(format_report(report))}</pre>"
        f"<details><summary>Settings and configuration</summary><pre>"
        f"{html.escape(_dump(report['settings']))}\n{html.escape(_dump(report['config']))}"
        "</pre></details>",
    )


def save_page(report: Mapping[str, Any], report_path: Path) -> Path:
    """Write the page beside the report, under its name or, where that is taken, a counted one."""
    path = reserve_name(report_path.with_suffix(".html"))
    path.write_text(build_page(report), encoding="utf-8", errors="backslashreplace")
    return path


def _dump(values: Any) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False)
