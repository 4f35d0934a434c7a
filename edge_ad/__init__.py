"""edge-ad: from a folder of good RGB-D captures to a running real-time inspection."""

__version__ = "0.1.0"
