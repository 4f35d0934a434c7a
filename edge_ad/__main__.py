"""``python -m edge_ad``, for launchers such as ``torchrun`` that start a module."""

from edge_ad.cli import main

main()
