"""`python -m flashbench` runs the command `flashbench`."""

import sys

from flashbench.cli.entry import main

sys.exit(main())
