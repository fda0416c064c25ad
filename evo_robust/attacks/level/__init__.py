"""Attacks on chosen pixels that see logits alone."""
