"""One module per suite, with ``NAME``, ``SUMMARY`` and ``run(argv) -> exit code``; found by being here.

A suite imports what is heavy inside its functions, so that ``automl bench`` lists them at once. Modules
whose name starts with an underscore are parts of suites.
"""
