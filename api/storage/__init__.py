"""What outlives the process: uploads and videos, the journal, and the locks on their directories."""
