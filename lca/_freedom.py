"""Satterthwaite's degrees of freedom of a sum of independent sample means."""


def satterthwaite(variance: float, root: float, least: float, most: float) -> float:
    """The degrees of freedom of Student's interval of a sum of independent sample means.

    ``ν = (Σ_i σ_i²)² / Σ_i σ_i⁴/f_i``, with the variances σ_i² of the means and the f_i degrees of freedom of
    their estimates s_i². Both sums are estimated without bias, from one sum w of means or from several alike:
    ``ν + 2 = Σ_w (Σ_i s_wi²)² / Σ_w Σ_i s_wi⁴/(f_i + 2)``. One alone, of which one mean has most of the
    variance, tells ν badly.

    Parameters
    ----------
    variance, root
        ``√Σ_w (Σ_i s_wi²)²`` and ``√Σ_w Σ_i s_wi⁴/(f_i + 2)``, of which the second is not 0.
    least, most
        The limits of ν: the smallest f_i, and ``Σ_i f_i``.

    Examples
    --------
    >>> satterthwaite(variance=2.0, root=(2 / 5) ** 0.5, least=3, most=6)  # two equal variances, m = 4
    6
    """
    return min(max((variance / root) ** 2 - 2, least), most)
