"""Pictures, tables and messages for people."""
