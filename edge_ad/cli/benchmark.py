"""``edge-ad benchmark``."""


def command() -> None:
    """Example: edge-ad benchmark."""
