"""Schedules for checks that take too long to be made at every event of a run."""


def doubles(count: int, longest: int | None = None) -> bool:
    """Whether it is the 1st, 2nd, 4th, 8th, ... event; with ``longest`` also every such multiple of it.

    Parameters
    ----------
    count
        The number of the event, from 1 on.
    longest
        The largest distance between two, a power of 2.

    Examples
    --------
    >>> [count for count in range(1, 40) if doubles(count)]
    [1, 2, 4, 8, 16, 32]
    >>> [count for count in range(1, 40) if doubles(count, 8)]
    [1, 2, 4, 8, 16, 24, 32]
    """
    return not count & (count - 1) or (longest is not None and count % longest == 0)


def thins_out(count: int) -> bool:
    """Whether it is one of the events that thin out slowly: 35 in every decade, from the 20th on.

    What acts at every n-th event acts at one of these for most n that people choose, and what begins to act
    is found before a tenth as many events again have passed.

    Parameters
    ----------
    count
        The number of the event, from 1 on.

    Examples
    --------
    >>> [count for count in range(20, 200) if thins_out(count)][:16]
    [20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 42, 44, 46, 48, 50]
    >>> [count for count in range(90, 500) if thins_out(count)][:16]
    [90, 95, 100, 110, 120, 130, 140, 150, 160, 170, 180, 190, 200, 220, 240, 260]
    >>> [sum(map(thins_out, range(1, stop + 1))) for stop in (100, 1_000, 10_000)]
    [45, 80, 115]
    """
    decade: int = 10 ** max(0, len(str(count)) - 2)
    step = 5 if count >= 50 * decade else 2 if count >= 20 * decade else 1
    return count % (step * decade) == 0
