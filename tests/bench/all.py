"""All benchmarks one after the other, and one table at the end: what `make bench` runs.

    all.py [--quick] [--json FILE] [NAME...]     NAME: ping fanout events files states salt apply backup

`apply` and `backup` need root and boot three nodes, so they run only when named, or when root asks for everything.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from pgha.tests.bench.table import Row, about, note, options, text

NAMES = ("ping", "fanout", "events", "files", "states", "salt", "apply", "backup")


def main() -> None:
    parser = options("all")
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(NAMES))
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are: {' '.join(NAMES)}")
    wanted = arguments.names or [
        name for name in NAMES if name not in ("apply", "backup") or (os.geteuid() == 0 and not arguments.quick)
    ]
    shown, rows, broken = about(), [], 0
    for name in wanted:
        note(f"== {name}")
        try:
            found: list[Row] = importlib.import_module(f"pgha.tests.bench.{name}").measure(arguments.quick)
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - what breaks costs its own rows only
            found = [
                Row(
                    f"{name}: not measured: {type(error).__name__}: {str(error)[-150:]}".replace("\n", " "),
                    "",
                    met=False,
                )
            ]
            broken += 1
        rows += found
    print(f"{shown}\n\n{text(rows)}")
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"about": shown, "rows": [asdict(r) for r in rows]}, indent=1) + "\n"
        )
    sys.exit(broken > 0 or any(row.met is False for row in rows))


if __name__ == "__main__":
    main()
