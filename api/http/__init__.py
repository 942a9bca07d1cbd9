"""What knows HTTP: requests, responses, errors and their schema."""
