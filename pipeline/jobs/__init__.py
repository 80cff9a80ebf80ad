"""The DAG as a job for Vertex AI Pipelines or Kubeflow Pipelines, and the entry point of its steps."""
