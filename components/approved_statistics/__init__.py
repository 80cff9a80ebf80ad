"""ApprovedStatistics: a component that keeps statistics which passed the gate, for the next run."""
