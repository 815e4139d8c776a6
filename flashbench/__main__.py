"""`python -m flashbench` is the command `flashbench`."""

import sys

from flashbench.cli.entry import main

sys.exit(main())
