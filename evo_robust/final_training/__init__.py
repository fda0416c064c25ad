"""A found network trained from scratch, and judged."""
