"""The command line: one file per concept, one per command beyond Lightning's own."""
