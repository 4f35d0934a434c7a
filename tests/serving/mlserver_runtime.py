"""Runs what ``edge-ad export-triton`` wrote inside MLServer, which imports this in a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class ExportedModel(MLModel):  # type: ignore[misc]
    """``parameters.uri`` of its settings is the model's directory in the repository."""

    async def load(self) -> bool:
        directory = Path(self.settings.parameters.uri)
        self._session = onnxruntime.InferenceSession(directory / "1" / "model.onnx")
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        dtypes = {"UINT8": np.uint8, "FP32": np.float32}
        feeds = {
            tensor.name: np.asarray(tensor.data, dtypes[tensor.datatype]).reshape(tensor.shape)
            for tensor in payload.inputs
        }
        names = [output.name for output in self._session.get_outputs()]
        arrays = dict(zip(names, self._session.run(names, feeds), strict=True))
        # In no order that could be relied on, and with the scores as Triton sends them.
        arrays["score"] = arrays["score"][:, None]
        outputs = [NumpyCodec.encode_output(name, array) for name, array in reversed(arrays.items())]
        return InferenceResponse(model_name=self.name, outputs=outputs)
