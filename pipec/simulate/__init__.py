"""Program -> timeline: when, how long, and how much memory."""
