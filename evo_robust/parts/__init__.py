"""Configurable parts: typed values, what text and files say of them, stand-ins."""
