"""Prints a table of the results of ``make test-integrations``: python tests/integrations/table.py RESULTS.xml..."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

COLUMNS = ("passed", "failed", "skipped")


def outcome_of(case: ET.Element) -> str:
    """Return the outcome of a test."""
    kinds = {child.tag for child in case}
    return "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"


def main(paths: list[str]) -> int:
    """Print a row for each file of tests in each environment; returns 1 if anything failed or did not run."""
    rows: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    missing = [path for path in paths if not Path(path).is_file()]
    for path in paths:
        for case in () if path in missing else ET.parse(path).iter("testcase"):
            row = rows[case.get("classname", "").split("test_", 1)[-1].split(".")[0]]
            row[outcome_of(case)] += 1
            row["seconds"] += float(case.get("time", 0))
    print(f"{'tests of':<24}{''.join(f'{column:>9}' for column in COLUMNS)}{'seconds':>9}")
    for name in sorted(rows):
        counts = "".join(f"{rows[name][column]:>9.0f}" for column in COLUMNS)
        print(f"{name.replace('_', ' '):<24}{counts}{rows[name]['seconds']:>9.1f}")
    for path in missing:
        print(f"not run to its end: {path}")
    return 1 if missing or not rows or any(row["failed"] for row in rows.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
