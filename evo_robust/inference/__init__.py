"""Predictions of networks, and checks of networks and images."""
