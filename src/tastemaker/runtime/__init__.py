"""What a run needs of the machine: its folder, checkpoints, devices, processes, signals and seeds.

Its files:

    folder.py      writing that survives a crash: whole or absent, never half; a full disk is named as such
    checkpoint.py  saved steps: written whole, verified on load, never unpickled
    state.py       an optimiser's nested state as flat tensors and plain JSON, and back
    run.py         the folder of one run: settings, versions, lock, metrics, incidents, checkpoints
    metrics.py     JSON lines with one line a step, no gap and no double
    lock.py        one process per run folder
    changes.py     what differs between a run and its resumption
    digests.py     SHA-256 of files and folders, remembered between commands
    signals.py     SIGTERM and Ctrl-C ask the loop to stop at a safe point
    seeds.py       keyed random numbers: no result depends on order, batch or number of processes
    distributed.py one process, or several that train as one
    together.py    several of them started from within
    guard.py       NaN and inf are counted, written down and never reach the weights
    progress.py    what a person sees while a run is going on
    device.py      device, precision and threads
    estimate.py    what a piece of work will take, from headers of weight files and one short test
    sittings.py    the seconds of what was interrupted and taken up again
"""
