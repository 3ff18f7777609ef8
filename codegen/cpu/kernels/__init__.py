"""One file per kernel family: a frozen spec, the function that emits it, its tile and cost expressions."""
