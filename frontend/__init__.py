"""From a model as it was published to a `Checkpoint` and a traced IR module."""
