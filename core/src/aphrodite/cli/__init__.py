"""The command line: one table of flags, a module for each command."""
