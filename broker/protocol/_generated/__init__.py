"""Written by `python -m broker.protocol.generator`: do not edit."""
