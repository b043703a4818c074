"""OpenAI's API: completions, chat completions, models, tokens and responses."""
