"""Where the command `flashbench` begins: Ctrl-C ends it with 130 and one line, from its first moment on.

Imports here must be fast. Before `app` is imported and after it is done there is nothing to clean up, and the
process exits at once.
"""

from __future__ import annotations

import signal
import sys

from flashbench.cli.interrupts import INTERRUPTED, leave, note


def main() -> int:
    """Run the command line of this process and return its exit code."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not under nohup
    if ours:
        signal.signal(signal.SIGINT, leave)
    from flashbench.cli.app import main as run

    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        code = run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    finally:
        if ours:
            signal.signal(signal.SIGINT, leave)
    return code
