"""Image, audio and video files: probe, decode, encode."""
