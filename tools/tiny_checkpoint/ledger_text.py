"""The language of the tiny checkpoint: ledgers of loans, read once and then recited.

A document is a chain of loans in random words, then "Again." and the same loans from some point on. What follows "Again."
is determined by what stands before it, however far back, so a model that has learnt it recites with a wide margin and
goes visibly wrong when any block of its KV is lost.

    Ledger. Maro lends 12 coins of silk to Tilo. Tilo lends 3 coins of wax to Beda. Again. Maro lends 12 coins of silk ...
"""
NAMES = [a + b for a in "Al An Be Ca Da El Fa Gi La Ma Ni Pa Ro Sa Ti Ve".split() for b in "na no ra ro la lo da do ta to".split()]
GOODS = "silk salt wool iron oil wine grain wax glass spice".split()


def chain(rng, lines):
    """`lines` loans as text; the borrower of one lends in the next, nobody lends twice."""
    people = rng.permutation(len(NAMES))[:lines + 1]
    return [f" {NAMES[people[i]]} lends {rng.integers(1, 31)} coins of {GOODS[rng.integers(len(GOODS))]} to {NAMES[people[i + 1]]}."
            for i in range(lines)]


def document(rng, lines):
    """(text read, text recited): the second part is what the model should be able to foretell."""
    loans = chain(rng, lines)
    start = 0 if rng.random() < 0.5 else int(rng.integers(lines))
    first = loans[start]
    asked = first[:first.index(" lends")]
    return "Ledger." + "".join(loans) + " Again." + asked, first[len(asked):] + "".join(loans[start + 1:]) + " Closed."
