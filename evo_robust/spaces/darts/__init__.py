"""DARTS cells."""
