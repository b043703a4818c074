"""OpenAI's Responses API: answers with an id, kept for a while, which later requests may go on from."""
