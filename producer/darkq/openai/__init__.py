"""OpenAI's request bodies, errors and Responses. No I/O."""
