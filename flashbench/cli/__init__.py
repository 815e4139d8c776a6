"""The command line: each module parses, calls one study and renders."""
