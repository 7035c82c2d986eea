"""`python -m bench`: the whole comparison, two commits of ours against each other, or what is missing here."""

from __future__ import annotations

import sys

from bench.command_line import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
