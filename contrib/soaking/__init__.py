"""The machine that looks for faults nobody thought of.

A run is a sequence of *episodes*. An episode is a plan, drawn from a seed: what each of several
users does, one system call after the other, and which faults befall the mount meanwhile. Its
history (what was called when, and what was answered) is held to the promises of the manual by a
checker; what breaks one is a finding. The shrinker then takes users, faults and operations out of
the plan for as long as the same finding is still made.

    command     the command line: episode after episode until the time is over
    plan        a plan, drawn from a seed, out of the stories
    stories     what users do: each a few operations that belong together; with storytelling
                and, for what all write to, disk_stories
    operations  the vocabulary: operation, plan, event, history, finding
    content     what is written: blocks that tell where they belong, and which version they are
    user        a process that makes the system_calls, and the storm
    users       starts these processes, listens to them, notices those that hang
    faults      what befalls a mount: kills, restarts, stops
    bench       the cluster, the mounts, the tools
    episode     plays one plan
    checker     a history, and its findings: with documents (files of one user), disks (images of
                all), names, the register and the allowances
    shrinker    the shortest plan that still shows a finding
    report      what is printed and left behind
"""
