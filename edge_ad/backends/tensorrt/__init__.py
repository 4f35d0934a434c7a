"""TensorRT 8.6, 10.x, 11.x and TensorRT-RTX through one code path.

    loader.py          finds TensorRT and the driver; facts about the GPU
    half.py            types the networks of an ONNX graph in float16
    build.py           ONNX → serialized plan
    device_memory.py   GPU memory, pinned memory and a stream, over pycuda or cuda-bindings
    run.py             plan → named arrays in, named arrays out

The releases differ in what they still or already have. The code asks for the feature, never for the
version, so that a release nobody has tried is judged by what it can do.
"""
