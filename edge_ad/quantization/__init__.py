"""From a bundle's graph to one in INT8 that provably judges like it.

calibration.py   the set of good frames that stands for all: chosen, stored, checked
ranges.py        what values the networks' tensors take on these frames
graph.py         QuantizeLinear and DequantizeLinear where TensorRT, or a CPU, wants them
lint.py          what TensorRT would reject, silently misread or run slowly
pasted.py        defects pasted into good frames
gate.py          does it judge as the original does?
sensitivity.py   which layers must stay in floating point for that
"""
