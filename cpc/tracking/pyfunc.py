"""The model as MLflow serves it: `mlflow.pyfunc.load_model(uri).predict(waveform)` gives z and c.

MLflow stores this file and the checkpoint, and runs it to load the model: code of ours that reads safetensors.
"""

from typing import Any

import mlflow
import numpy as np
import torch

from cpc.models.checkpoint import load


class ServedCPC(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined,misc] # mlflow exports it dynamically
    """Takes float waveforms (batch, sample) or (sample,); gives {"z": …, "c": …}, each (batch, frame, dim)."""

    def load_context(self, context: Any) -> None:
        self.model = load(context.artifacts["checkpoint"])

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # hints would be a schema
        waveform = torch.as_tensor(np.atleast_2d(np.asarray(model_input, dtype=np.float32)))
        with torch.inference_mode():
            latents = self.model(waveform)
        return {"z": latents.z.numpy(), "c": latents.c.numpy()}


mlflow.models.set_model(ServedCPC())
