"""MLflow: where runs are kept, their curves, and the model as MLflow serves it."""
