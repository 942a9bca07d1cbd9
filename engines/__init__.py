"""Engines turn a portrait and a speech recording into a video. `base` is the contract they share."""
