"""Attacks within a number of pixels or of grey steps: by queries (CMA-ES, DE), or by gradients."""
