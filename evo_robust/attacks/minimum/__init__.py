"""Attacks that look for the closest adversarial image: one run answers for every strength."""
