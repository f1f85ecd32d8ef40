"""The OpenAI-compatible API on the HTTP port: schemas, requests read, answers written, routes."""
