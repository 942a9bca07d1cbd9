"""The life of a task: registry, queue, scheduler, attempts and events; no HTTP."""
