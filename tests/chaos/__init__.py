"""What people depend on, put to the proof: servers that are killed, stopped, out of room or with a broken journal."""
