"""The node: one inbox, one pure step, effects. It joins routing, delivery, links and store."""
