"""OpenAI's API over darkq's jobs: chat, Responses, models, files and batches."""
