"""Training a found network from scratch, and evaluating it."""
