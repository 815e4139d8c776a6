"""The command line: each module parses options, calls one study and prints its report."""
