"""RobNet's cells."""
