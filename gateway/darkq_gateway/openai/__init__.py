"""OpenAI's wire over darkq's jobs: what their SDK sends, and what it needs to hear."""
