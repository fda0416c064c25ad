"""Statistics of a study: what a run's record says about which architectures withstand attacks. No pictures here."""
