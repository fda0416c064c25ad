"""What RobNet's and DARTS networks share: stacked cells."""
