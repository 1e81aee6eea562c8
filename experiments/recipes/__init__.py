"""What the builds of several systems share."""
