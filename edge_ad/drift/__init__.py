"""Is what the line sees still what the model learned?

reference.py          what good frames were like when the model was trained; travels in the bundle
image_statistics.py   brightness, colour, sharpness, depth of one frame
exchangeability.py    a test that never stops, with a stated rate of false alarms
watch.py              the test, the smallest change that matters, and when it is over
quantities.py         how large a change matters, and what to say of it
monitor.py            all of it as a sink that raises alarms
"""
