"""The rig: one camera over one empty fixture, measured once, so that later changes are seen and named.

``edge-ad rig calibrate`` observes the empty fixture and stores a ``Rig``; ``edge-ad rig check`` compares what the
camera sees now with it, ``RigMonitor`` does so while the line runs, and training takes ROI and plane from it.
"""
