"""Statistics of a study: which properties of architectures make them robust, by a run's record. No pictures here."""
