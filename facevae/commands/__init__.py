"""The commands: each a call from a configuration to figures, recorded in MLflow."""
