"""Task lifecycle: registry, queue, scheduler, attempts and events; independent of HTTP."""
