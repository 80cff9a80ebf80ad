"""OutcomeReporter: a component that reports a job's outcome after its last step, whatever happened."""
