"""The command line: `aphrodite generate|plugins|explain`."""
