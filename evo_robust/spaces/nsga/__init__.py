"""NSGA-Net's phases."""
