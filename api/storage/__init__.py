"""Persistent storage: uploads, videos and the journal, with their directory locks and temporary workspaces."""
