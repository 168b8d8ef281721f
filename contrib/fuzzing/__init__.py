"""Coverage-guided fuzzing of what decodes bytes that somebody else wrote.

A *target* is a function that takes an input, any bytes, and raises where the decoder breaks its
promise: it answers, or raises the error that its docstring names, and nothing else, in bounded
time and memory; and what was decoded is encoded to what it was. Each has a *corpus*, inputs that
between them reach all that was ever reached, in corpora/TARGET. tests/contrib/test_fuzz_corpora.py
gives every one of them to its target; to look for new ones takes atheris, and clang for C.

    command     the command line: one target after the other
    tools       atheris and clang, which are installed when they are first wanted
    engine      the process that fuzzes a target in Python, under atheris
    targets     the targets by name
    parts       an input, taken apart

and a module for each target, whose docstring says what an input of it is. That of the data path is
C, built with clang and libFuzzer, and by the test with gcc and replay.c.
"""
