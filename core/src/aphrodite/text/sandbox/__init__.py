"""Jinja for chat templates, which come with checkpoints from anywhere: no way out of it, and an end to all work.

Jinja's sandbox bounds `range` alone; here every loop step, call, filter, comparison and output is paid for from a
budget, before it is done and by the size of its result, so that a rendering ends in seconds and within bounded memory,
by count and not by clock: the same messages render or fail alike on every machine.

    environment   what templates may say and call
    metering      where they pay
    costs         how much
    budget        from what
"""
