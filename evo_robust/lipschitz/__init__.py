"""Lipschitz constants (L2) of operations and networks, and what they are where operations are weighed at random."""
