"""What employees do in Slack beside talking, and what they see there beside answers."""
