"""TensorRT 8.6, 10.x, 11.x and TensorRT-RTX through one code path.

    loader.py          finds TensorRT and the driver; facts about the GPU
    half.py            types the networks of an ONNX graph in float16
    weakly_typed.py    what TensorRT 8 needs instead of types
    build.py           ONNX → serialized plan
    remedies.py        what to do about TensorRT's errors
    timing_cache.py    measurements of kernels that the next build uses again
    device_memory.py   GPU memory, pinned memory and a stream, over pycuda or cuda-bindings
    driver_calls.py    CUDA graphs, over the driver's library
    host_memory.py     the same as device_memory and driver_calls on plain memory: a fake
    run.py             plan → named arrays in, named arrays out

The releases differ in what they still or already have. The code asks for the feature, never for the
version, so that a release nobody has tried is judged by what it can do.
"""
