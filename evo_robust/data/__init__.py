"""Data sets, their images, and the files they are read from."""
