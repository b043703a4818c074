"""What models write beside plain text: reasoning and tool calls, described as data and read as they come."""
