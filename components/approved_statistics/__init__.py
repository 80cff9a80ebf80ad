"""ApprovedStatistics: what the gate let pass, for the next run to be compared with."""
