"""Configurable parts: typed values, made from text and files, and stand-ins for missing ones."""
