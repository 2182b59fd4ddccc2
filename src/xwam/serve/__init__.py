"""The model over the wire."""
