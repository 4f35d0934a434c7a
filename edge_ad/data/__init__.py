"""Data sets on disk, as labelled frames. Needs no torch."""

from edge_ad.data.dataset import Dataset, Frames
from edge_ad.data.layouts import open_dataset
from edge_ad.data.writer import FolderWriter

__all__ = ["Dataset", "FolderWriter", "Frames", "open_dataset"]
