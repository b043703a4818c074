"""Plain data that crosses seams: parameters, plans and results. No torch."""
