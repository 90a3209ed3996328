"""What the parent makes of the workers' records: distances in noise floors, and verdicts."""
