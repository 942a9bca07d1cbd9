"""What outlives the process: files, the journal and directory locks."""
