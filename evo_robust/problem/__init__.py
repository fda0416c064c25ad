"""A problem as a value, its files, and overrides."""
