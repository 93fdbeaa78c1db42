"""The AI SDK's chats: `useChat` with a URL of this gateway and nothing else."""
