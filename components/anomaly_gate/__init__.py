"""AnomalyGate: stops the run on anomalies that ExampleValidator only records."""
