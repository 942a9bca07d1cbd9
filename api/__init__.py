"""The HTTP service: receives, validates, queues and answers."""
