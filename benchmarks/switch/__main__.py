"""`python -m benchmarks.switch COMMAND`.

`data` makes the runs, `table` scores the policies on them, `hybrid` measures trainings that follow the advice.
"""

from __future__ import annotations

import sys

COMMANDS = ("data", "table", "hybrid")


def main(arguments: list[str]) -> int:
    """Hand over to the command; each brings in only what it needs."""
    if not arguments or arguments[0] not in COMMANDS:
        print(f"usage: python -m benchmarks.switch {{{','.join(COMMANDS)}}} ...", file=sys.stderr)
        return 2
    command, *rest = arguments
    if command == "table":
        from benchmarks.switch import table

        return table.main(rest)
    if command == "hybrid":
        from benchmarks.switch import hybrid

        return hybrid.main(rest)
    from benchmarks.switch import generate

    return generate.main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
