"""Training data of the demo model: short sequences that stand for long texts."""
import numpy as np

import demo_text

# Loss weights: what is read, what is known from what stands before (the form of an answer), digits that must be found. The
# first digit is the only one that takes the name to find; the others can be guessed from the digit before. The name in an
# answer must be that of its question.
READ, FORM, NAME, FOUND, FIRST = 0.1, 0.3, 2.0, 1.0, 4.0
NEAR = 24  # tokens; filler nearer than this is not multiplied


class Source:
    """Sentences are encoded once; sequences are put together from their tokens."""

    def __init__(self, tokenizer, seed, lookalikes=0, chronicle=0, plain=16000, numbered=6000):
        """`lookalikes`: share of keys beside which the filler has numbers that begin as they do. `chronicle`: share of texts
        without keys."""
        self.rng, self.lookalikes, self.chronicle = np.random.default_rng(seed), lookalikes, chronicle
        encode = lambda text: np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
        self.begin, self.end, self.pad = (tokenizer.token_to_id(f"<|{name}|>") for name in ("begin", "end", "pad"))
        self.plain = [encode(" " + demo_text.plain_sentence(self.rng)) for _ in range(plain)]
        self.first = [encode(demo_text.plain_sentence(self.rng)) for _ in range(plain // 8)]
        self.numbered = [encode(" " + demo_text.number_sentence(self.rng)) for _ in range(numbered)]
        self.names = [None] + demo_text.PLACES
        self.stated = [encode(f" The {demo_text.subject(name)} is ") for name in self.names]
        self.asked = [encode(demo_text.question(name)) for name in self.names]
        # Sentences that look like those of a key.
        self.near = [[encode(f" The {what} of the {name} is ") for what in ("number", "price")] for name in demo_text.PLACES]
        around = lambda before, after: (encode(" " + before + " "), encode(after))
        self.elsewhere = [around(f"The {person} {verb}", f" {rest}.") for person in demo_text.PEOPLE for verb, rest in (
            ("wrote", f"on the wall of the {demo_text.pick(self.rng, demo_text.PLACES)}"),
            ("paid", f"coins for the {demo_text.pick(self.rng, demo_text.THINGS)}"))] if lookalikes else []
        self.digits = encode("0123456789")
        self.stop = encode(".")
        assert len(self.digits) == 10 and all(len(s) < 10 for s in self.stated)

    def statement(self, name, key, known):
        tokens = np.concatenate([self.stated[name], self.digits[key], self.stop])
        weights = np.full(len(tokens), FORM if known == "answer" else READ)
        weights[-6:-1] = FOUND if known else 0
        weights[-6] *= FIRST
        if known == "answer" and name:
            weights[4] = NAME
        return tokens, weights

    def sequence(self, tokens, keys, numbered, misses):
        """One text: `keys` sentences of keys, some said twice, questions at the end, filler up to `tokens` in all.

        Returns its parts: (ids, loss weight of each id, whether it is filler)."""
        rng = self.rng
        # The unnamed key stands alone or among named ones.
        names = rng.permutation(len(self.names) - 1)[:keys] + 1
        if keys == 1 or rng.random() < 0.3:
            names[0] = 0
        values = rng.integers(0, 10, (keys, 5))
        # A key's number may be made of two or three digits (what follows "77" in 77421 is easily mistaken), or be that of
        # another with one digit changed.
        for i in range(keys):
            if self.lookalikes and rng.random() < 0.3:
                values[i] = rng.choice(values[i][:rng.integers(2, 4)], 5)
            if i and rng.random() < (0.5 if self.lookalikes else 0.3):
                values[i] = values[i - 1]
                values[i][rng.integers(5)] = rng.integers(10)
        questions = rng.permutation(keys)
        left = tokens - 1
        tail = []
        for q in questions:
            answer, weights = self.statement(names[q], values[q], "answer")
            ask = self.asked[names[q]]
            part = np.concatenate([ask, answer, [self.end]])
            if len(part) > left - 14 * keys and tail:
                break
            tail.append((part, np.concatenate([np.full(len(ask), READ), weights, [FORM]]), False))
            left -= len(part)
        body = [(*self.statement(names[i], values[i], None), False) for i in range(keys)]
        left -= sum(len(part[0]) for part in body)
        order = list(rng.permutation(keys))
        # Said twice: the second time is as good as an answer.
        for i in range(keys):
            again = (*self.statement(names[i], values[i], "again"), False)
            if left > 2 * len(again[0]) and rng.random() < 0.4:
                order.insert(rng.integers(order.index(i) + 1, len(order) + 1), i + keys)
                left -= len(again[0])
            body.append(again)
        said = {i + keys: body[i + keys] for i in range(keys)} | {i: body[i] for i in range(keys)}
        parts = [said[i] for i in order]
        read = lambda sentence: (sentence, np.full(len(sentence), READ), True)
        filler = []
        for name in names:
            miss = self.near[(name or rng.integers(1, len(self.names))) - 1][rng.integers(2)]
            miss = np.concatenate([miss, self.digits[rng.integers(0, 10, 5)], self.stop])
            if rng.random() < misses and left > 3 * len(miss):
                filler.append(read(miss))
                left -= len(miss)
        for i in range(keys if self.lookalikes else 0):
            for _ in range(max(2, 8 // keys)):  # a single key meets as many as four together do
                value = values[i].copy()
                changed = rng.integers(1, 5)
                value[changed:] = rng.integers(0, 10, 5 - changed)
                if rng.random() < 0.5:
                    name = names[i] if names[i] and rng.random() < 0.5 else rng.integers(1, len(self.names))
                    before, after = self.near[name - 1][rng.integers(2)], self.stop
                else:
                    before, after = self.elsewhere[rng.integers(len(self.elsewhere))]
                alike = np.concatenate([before, self.digits[value], after])
                if rng.random() < self.lookalikes and left > 3 * len(alike):
                    filler.append(read(alike))
                    left -= len(alike)
        first = self.first[rng.integers(len(self.first))]
        left -= len(first)
        while left > 0:
            pool = self.numbered if rng.random() < numbered else self.plain
            sentence = pool[rng.integers(len(pool))]
            if len(sentence) > left:
                break
            filler.append(read(sentence))
            left -= len(sentence)
        if left >= 0:
            places = rng.integers(0, len(parts) + 1, len(filler))
            mixed = [read(first)]
            for i in range(len(parts) + 1):
                mixed += [f for f, place in zip(filler, places) if place == i]
                mixed += parts[i:i + 1]
            parts = mixed
        parts = [(np.array([self.begin]), np.zeros(1), False)] + parts + tail
        return parts

    def without_keys(self, tokens):
        """As `sequence`: filler as dense in numbers as that of prompts."""
        rng, parts, left = self.rng, [(np.array([self.begin]), np.zeros(1), False)], tokens - 1
        while True:
            pool = self.first if len(parts) == 1 else self.numbered if rng.random() < 0.08 else self.plain
            sentence = pool[rng.integers(len(pool))][:left]
            if not len(sentence):
                return parts
            parts.append((sentence, np.full(len(sentence), READ), True))
            left -= len(sentence)

    def batch(self, rows, tokens, keys_max, reach, dilution, numbered=0.12, misses=0.3):
        """ids, weights [rows, tokens]; positions [rows, tokens]; filler [rows, tokens]: log of what each key counts for."""
        rng = self.rng
        ids = np.full((rows, tokens), self.pad, np.int64)
        weights = np.zeros((rows, tokens), np.float32)
        positions = np.tile(np.arange(tokens), (rows, 1))
        count = np.zeros((rows, tokens), np.float32)
        for row in range(rows):
            keys = int(rng.integers(1, keys_max + 1))
            if self.chronicle and rng.random() < self.chronicle:
                parts = self.without_keys(tokens)
            else:
                parts = self.sequence(tokens, keys, numbered, misses)
            times = np.log(dilution) * rng.random() ** (0.5 if self.lookalikes else 1) if dilution > 1 else 0.0
            starts, at = [], 0
            for part, weight, filler in parts:
                n = len(part)
                ids[row, at:at + n], weights[row, at:at + n] = part, weight
                count[row, at:at + n] = times * filler
                starts.append(at)
                at += n
            if reach > 1 and rng.random() < 0.85:
                # Gaps between sentences: distances of long texts.
                cuts = rng.choice(starts[1:], min(int(rng.integers(1, 5)), len(starts) - 1), replace=False)
                total = np.exp(rng.random() * np.log(reach))
                shares = rng.dirichlet(np.ones(len(cuts)))
                for cut, share in zip(cuts, shares):
                    positions[row, cut:] += int(total * share)
        return ids, weights, positions, count
