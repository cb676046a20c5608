"""What people can find out about a device: its state, its measures, alerts, and the reasons for what happens."""
