"""Training: the loop, recipes, supernets and how they learn."""
