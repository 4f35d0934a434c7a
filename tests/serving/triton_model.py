"""Runs ``model.onnx`` beside it inside Triton's Python backend, as pip's Triton brings no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """The class that the backend looks for."""

    def initialize(self, arguments: dict[str, str]) -> None:
        self._session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"))

    def execute(self, requests: list[Any]) -> list[Any]:
        return [triton.InferenceResponse(self._outputs(request)) for request in requests]

    def _outputs(self, request: Any) -> list[Any]:
        # Through DLPack, as this backend was built for NumPy 1 and takes arrays of NumPy 2 for empty.
        names = [spec.name for spec in self._session.get_inputs()]
        feeds = {name: np.from_dlpack(triton.get_input_tensor_by_name(request, name)) for name in names}
        outputs = [spec.name for spec in self._session.get_outputs()]
        arrays = zip(outputs, self._session.run(outputs, feeds), strict=True)
        return [triton.Tensor.from_dlpack(name, array) for name, array in arrays]
