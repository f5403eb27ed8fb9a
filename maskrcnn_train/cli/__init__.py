"""The command line of every command: its help, one run, or the jobs of a sweep."""
