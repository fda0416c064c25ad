"""evo_robust."""
