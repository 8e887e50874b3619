"""The shapes of answers, each with an example: OpenAPI shows them, and tests hold real answers against them."""
