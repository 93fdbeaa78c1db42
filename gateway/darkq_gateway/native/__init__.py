"""darkq's own API, and its OpenAPI document."""
