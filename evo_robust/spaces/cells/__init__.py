"""Stacked cells, shared by the networks of RobNet and DARTS."""
