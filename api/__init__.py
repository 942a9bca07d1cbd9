"""The REST service: see doc/architecture.md for its layers."""

VERSION = "0.1.0"
