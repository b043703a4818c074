"""One runner for every device: it turns a scheduler's plan into replays of Programs."""
