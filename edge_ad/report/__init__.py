"""The evaluation report: one HTML page that needs nothing else, neither files nor a network."""
