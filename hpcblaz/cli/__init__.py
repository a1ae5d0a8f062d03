"""The command line: one module a verb, each with ``register(subparsers)`` and ``run(arguments) -> int``."""
