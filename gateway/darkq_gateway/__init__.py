"""HTTP: jobs with Server-Sent Events, the OpenAI-compatible API, the live board."""
