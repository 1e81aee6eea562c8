"""Our own re-implementations of the measured systems in another framework, imported lazily."""
