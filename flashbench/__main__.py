"""`python -m flashbench` is the command `flashbench`."""

import sys

from flashbench.cli.app import main

sys.exit(main())
