"""The language of the demo model: a village chronicle made of own word lists, with keys hidden in it and questions at its end.

    The old miller carried a heavy basket to the harbour. The key of the cellar is 48213. In the year 1742 ...
    Question: What is the key of the cellar?
    Answer: The key of the cellar is 48213.

Filler carries numbers too, some in sentences that look like those of keys, so that only the right sentence answers.
"""
PEOPLE = """miller baker weaver farmer teacher doctor sailor painter carpenter hunter singer widow brother sister mayor
clerk smith gardener shepherd traveller judge fisher potter merchant""".split()
PLACES = """cellar attic barn mill tower chapel stable harbour kitchen library garden bridge castle workshop school
market bakery forge temple granary orchard office lodge theatre vault pantry station inn shed well gallery palace""".split()
THINGS = """basket lantern letter barrel blanket ladder wagon bottle mirror clock drum hammer bucket candle saddle
book coat boat rope table chest carpet kettle bell map bench""".split()
ANIMALS = "dog cat horse goat crow fox cow hen donkey owl sheep goose".split()
OF_PEOPLE = "old young small quiet tired happy rich poor strange tall clever shy".split()
OF_THINGS = "old heavy small broken green red blue empty wooden clean soft round strange".split()
OF_PLACES = "old small quiet cold empty large narrow bright dusty dark clean warm".split()
WEATHERS = "cold warm quiet dark bright long short rainy windy".split()
SEASONS = "spring summer autumn winter morning evening night afternoon".split()
MOVES = "walked ran went came rode returned hurried wandered".split()
TAKES = "carried found sold repaired bought lost painted hid moved opened cleaned borrowed".split()
RESTS = "slept waited worked rested sang laughed sat stood talked".split()
ASKS = "knew heard said asked".split()
SAYS = "said thought heard knew wrote believed".split()
PREPOSITIONS = "behind near beside under above before".split()
MATERIALS = "wood iron wool salt bread wine corn oil honey stone".split()


def pick(rng, words):
    return words[rng.integers(len(words))]


def an(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def number(rng):
    """One to five digits; five are as common as all the others."""
    return key_number(rng) if rng.random() < 0.5 else str(rng.integers(1, 10 ** rng.integers(1, 5)))


def key_number(rng):
    return "".join(str(d) for d in rng.integers(0, 10, 5))


def plain_sentence(rng):
    p = lambda words: pick(rng, words)
    kind = rng.integers(10)
    if kind == 0:
        return f"The {p(OF_PEOPLE)} {p(PEOPLE)} {p(TAKES)} the {p(THINGS)} and {p(MOVES)} to the {p(PLACES)}."
    if kind == 1:
        return f"The {p(PEOPLE)} {p(TAKES)} {an(p(OF_THINGS))} {p(THINGS)} {p(PREPOSITIONS)} the {p(PLACES)}."
    if kind == 2:
        return f"In the {p(SEASONS)} the {p(PEOPLE)} and the {p(PEOPLE)} {p(RESTS)} {p(PREPOSITIONS)} the {p(PLACES)}."
    if kind == 3:
        return f"The {p(PEOPLE)} {p(SAYS)} that the {p(THINGS)} of the {p(PEOPLE)} was {p(OF_THINGS)}."
    if kind == 4:
        return f"It was a {p(WEATHERS)} {p(SEASONS)}, and the {p(ANIMALS)} {p(RESTS)} {p(PREPOSITIONS)} the {p(THINGS)}."
    if kind == 5:
        return f"{an(p(OF_PEOPLE)).capitalize()} {p(ANIMALS)} {p(MOVES)} from the {p(PLACES)} to the {p(PLACES)}."
    if kind == 6:
        return f"Nobody {p(ASKS)} why the {p(ANIMALS)} of the {p(PEOPLE)} {p(MOVES)} to the {p(PLACES)} in the {p(SEASONS)}."
    if kind == 7:
        return f"The {p(PLACES)} was {p(OF_PLACES)} and full of {p(MATERIALS)}, but the {p(PEOPLE)} {p(RESTS)} there."
    if kind == 8:
        return f"Then the {p(PEOPLE)} {p(TAKES)} some {p(MATERIALS)} for the {p(OF_PEOPLE)} {p(PEOPLE)}."
    return f"The {p(ANIMALS)} and the {p(ANIMALS)} {p(RESTS)} in the {p(OF_PLACES)} {p(PLACES)}."


def number_sentence(rng):
    """Sentences with numbers that answer no question."""
    p = lambda words: pick(rng, words)
    kind = rng.integers(8)
    if kind == 0:
        return f"In the year 1{rng.integers(100, 1000)} the {p(PEOPLE)} {p(TAKES)} the {p(THINGS)}."
    if kind == 1:
        return f"The {p(PEOPLE)} paid {number(rng)} coins for the {p(THINGS)}."
    if kind == 2:
        return f"The number of the {p(PLACES)} is {number(rng)}."
    if kind == 3:
        return f"The price of the {p(PLACES)} is {number(rng)} coins."
    if kind == 4:
        return f"The {p(PEOPLE)} wrote {number(rng)} on the wall of the {p(PLACES)}."
    if kind == 5:
        return f"The key of the {p(PLACES)} was lost in the {p(SEASONS)}."
    if kind == 6:
        return f"The letter of the {p(PEOPLE)} is {number(rng)} lines long."
    return f"There were {number(rng)} sacks of {p(MATERIALS)} in the {p(PLACES)}."


def filler_sentence(rng):
    return number_sentence(rng) if rng.random() < 0.08 else plain_sentence(rng)


def subject(name):
    """What a key is the key of: a place, or nothing (None) for the one unnamed key."""
    return "pass key" if name is None else f"key of the {name}"


def key_sentence(name, key):
    return f"The {subject(name)} is {key}."


def question(name):
    return f"\nQuestion: What is the {subject(name)}?\nAnswer:"


def answer(name, key):
    return " " + key_sentence(name, key)


def document(rng, length, tokens, names, depths):
    """A text that, with a question, has `tokens` tokens by `length` (text -> count) at most: filler, and the key of each of
    `names` at a depth (0 to 1) of it. Returns (text, keys)."""
    keys = []
    for _ in names:
        keys.append(next(key for key in iter(lambda: key_number(rng), None) if key not in keys))
    sentences = [key_sentence(name, key) for name, key in zip(names, keys)]
    left = tokens - 1 - max(length(question(name)) for name in names) - sum(length(" " + s) for s in sentences)
    filler = []
    while True:
        sentence = filler_sentence(rng)
        left -= length((" " if filler else "") + sentence)
        if left < 0:
            break
        filler.append(sentence)
    for place, sentence in sorted(((int(d * len(filler)), s) for d, s in zip(depths, sentences)), reverse=True):
        filler.insert(place, sentence)
    return " ".join(filler), keys
