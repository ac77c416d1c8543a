"""The command line: the one floor that reads arguments and the environment, and prints.

Everything it shows comes from the public Python surface; `--json` prints what a program should read,
everything else is for people and may change.

Exit codes: 0 done, 1 refused or failed, 2 used wrongly, 3 incomplete (the answer is "not yet").
"""

import sys


def main() -> None:
    """Run the command named on the command line, and leave with its exit code."""
    from klal.cli.app import run

    sys.exit(run(sys.argv[1:]))
