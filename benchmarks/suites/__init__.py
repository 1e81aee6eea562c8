"""What is measured: one module per suite, each with `cases(options)`, an iterator of `Case`."""
