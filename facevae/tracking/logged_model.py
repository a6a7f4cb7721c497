"""The code that MLflow runs to load a logged model (its "models from code"); nothing else."""

from facevae.tracking import ReconstructionModel, set_model

set_model(ReconstructionModel())
