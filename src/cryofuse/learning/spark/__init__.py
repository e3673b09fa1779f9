"""The learning on Spark ML: the same files, splits, scores and tables as the default engine."""
