"""The run folder: written, read, rebuilt, and seen as a table."""
