"""AnomalyGate: a component that stops the run on anomalies which the validators only record."""
