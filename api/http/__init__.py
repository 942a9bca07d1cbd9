"""HTTP layer: protocol, requests, responses, errors and the OpenAPI schema."""
