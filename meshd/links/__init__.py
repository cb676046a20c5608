"""Links: live authenticated sessions to peers, who is worth one, and when to try again."""
