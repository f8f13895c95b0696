"""What each command of `emrrg` does, one module a group; `cli.py` joins them.

Each module has `register(subparsers)`, which adds its parsers, and one function a command that takes
the parsed options and returns the exit code. Heavy modules are imported inside those functions, so
that `emrrg --help` answers at once.
"""
