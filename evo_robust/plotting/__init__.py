"""Pictures and tables of runs, one idea per file."""
