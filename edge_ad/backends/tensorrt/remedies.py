"""What to do about what TensorRT's parser and builder say."""

from __future__ import annotations

import re

FALLBACK = "use --backend onnxruntime"

_REMEDIES = (
    (
        r"Failed to convert ONNX dat[ea] type",
        "TensorRT has no uint16, uint32 or strings: give 16-bit depth as two uint8 planes or as float32",
    ),
    (
        r"[Aa]ntialias",
        "TensorRT resizes without antialiasing only: shrink by average pooling, or resize without `antialias=True`",
    ),
    (
        r"[Zz]ero.point|shiftIsAllZeros|symmetric quantization",
        "TensorRT's quantisation is symmetric: quantise for TensorRT (int8, zero points 0), not for the CPU",
    ),
    (
        r"[Ss]cale coefficients must all be positive|scaleAllPositive",
        "a scale is zero, negative or not a number: the calibration frames leave something constant, so quantise "
        "again with frames that show the product",
    ),
    (
        r"input has type Int32 but must have type.*Int8",
        "TensorRT wants biases in float: quantise with `QuantizeBias=False`",
    ),
    (
        r"UINT8|UInt8",
        "TensorRT takes uint8 only at the model's inputs and only into a Cast: in the model, convert to float before "
        "anything else (`x.float().permute(…)`, not `x.permute(…).float()`)",
    ),
    (
        r"must have same input types",
        "one operator gets two types: add a Cast, or export the model in float32 and let --precision fp16 type it",
    ),
    (
        r"Failed to parse the ONNX model|ParseFromCodedStream|deserialize",
        "the file is damaged or no ONNX model: export the bundle again",
    ),
    (
        r"Plugin not found|No importer registered|plugin creator|UNSUPPORTED_NODE|unsupported operator|: false$",
        "this release of TensorRT lacks that operator, or lacks it at the opset it was exported with: export the "
        f"model without it or at opset 18, install a newer TensorRT, or {FALLBACK}",
    ),
    (
        r"[Oo]ut of memory|OutOfMemory|[Ii]nsufficient (GPU )?memory|cudaErrorMemoryAllocation",
        "free GPU memory (see `nvidia-smi`), build with a smaller --max-batch, and try again",
    ),
    (
        r"Could not find any implementation|no implementation",
        "this GPU has no kernel for that layer in this precision and free memory: free GPU memory (see `nvidia-smi`), "
        "or build with --precision fp32",
    ),
)


def remedy_for(cause: str) -> str:
    """What mends ``cause``, a message of TensorRT; in the first row that knows it."""
    advice = (remedy for pattern, remedy in _REMEDIES if re.search(pattern, cause))
    return next(advice, f"export the model again with this version of edge-ad, or {FALLBACK}")
