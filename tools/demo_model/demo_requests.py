"""Writes launch/demo_requests.jsonl: a long text with ten named keys and a question, and short prompts beside it.

    python3 tools/demo_model/demo_requests.py [--model launch/demo_model] [--tokens 16000] [--output launch/demo_requests.jsonl]

A line's `answer` is the right one; the runtime ignores the field, launch/demo compares.
"""
import argparse
import json
import os

import numpy as np
from tokenizers import Tokenizer

import demo_text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="launch/demo_model")
    parser.add_argument("--tokens", type=int, default=16000)
    parser.add_argument("--output", default="launch/demo_requests.jsonl")
    parser.add_argument("--seed", type=int, default=3)
    flags = parser.parse_args()
    tokenizer = Tokenizer.from_file(os.path.join(flags.model, "tokenizer.json"))
    length = lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    rng = np.random.default_rng(flags.seed)

    def asked(name, tokens, keys, which):
        names = list(rng.permutation(demo_text.PLACES)[:keys]) if keys > 1 else [None]
        text, numbers = demo_text.document(rng, length, tokens, names, [(i + rng.random()) / keys for i in range(keys)])
        return dict(id=name, prompt=text + demo_text.question(names[which]), max_tokens=16,
                    answer=demo_text.answer(names[which], numbers[which]))

    lines = [asked("long", flags.tokens, 10, 3), asked("short-1", 200, 1, 0), asked("short-2", 300, 3, 1), asked("short-3", 400, 4, 0)]
    begins = (("The old miller", 3), ("It was a rainy night, and", 2), ("In the morning the teacher", 2))
    for i, (begin, seed) in enumerate(begins, 4):
        lines.append(dict(id=f"short-{i}", prompt=begin, max_tokens=40, temperature=0.8, seed=seed))
    with open(flags.output, "w") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
