"""Goldens of the tiny checkpoints: greedy continuations by the float64 reference, written to tests/data/tiny-golden.json
and tests/data/tiny-bf16-golden.json.

    python3 tools/tiny_checkpoint/goldens.py [--data tests/data]

Needs numpy and tokenizers. Generation does not stop at stop ids; `first_stop_index` says where a runtime that honours them
ends (null: nowhere). `top1_top2_gap` is the distance of the two best logits at each step: where it is small, a runtime of
lower precision may rightly pick the other token. `cases` have the logits at the last prompt position, `short` is a batch.
"""
import argparse
import json
import os

import numpy as np
from tokenizers import Tokenizer

import ledger_text
from reference import Llama

STEPS, SHORT_STEPS = 64, 24
CLEAR_GAP, LEAST_GAP = 0.15, 0.01  # what bfloat16 and float32 can tell apart, with room


def prompts(model, tokenizer, rng):
    """(cases, short): texts of several lengths. Of a few random ledgers each time the one is taken whose greedy choices
    stay clear for longest, so that a test may ask for equal ids over many steps also in bfloat16."""
    def clearness(text, steps):
        gaps = run(model, tokenizer.encode(text).ids, steps)[2]
        return min(gaps) > LEAST_GAP, next((i for i, gap in enumerate(gaps) if gap < CLEAR_GAP), steps)

    def ledger(lines, steps=STEPS, tries=16):
        texts = [ledger_text.document(rng, lines)[0] for _ in range(tries)]
        return max(texts, key=lambda text: clearness(text, steps))

    cases = ["", "Ledger.", ledger(3), ledger(6), ledger(12), ledger(40), ledger(159, tries=6),
             "Grüße aus Pisa! 12 coins, \u2603 and \u4f60\u597d.\n\tint main() { return 0; }"]
    return cases, [ledger(int(rng.integers(2, 7)), SHORT_STEPS, 6) for _ in range(24)]


def run(model, prompt_ids, steps):
    model.reset()
    logits = model.forward(np.array(prompt_ids))[-1]
    last_prompt_logits, ids, gaps = logits, [], []
    for _ in range(steps):
        order = np.argsort(logits)
        ids.append(int(order[-1]))
        gaps.append(round(float(logits[order[-1]] - logits[order[-2]]), 4))
        logits = model.forward(np.array(ids[-1:]))[-1]
    return last_prompt_logits, ids, gaps


def write_goldens(data, name, arithmetic, texts=None):
    folder = os.path.join(data, name)
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    stop_ids = json.load(open(os.path.join(folder, "generation_config.json")))["eos_token_id"]
    model, rng = Llama(folder), np.random.default_rng(3)

    def case(text, steps):
        prompt_ids = tokenizer.encode(text).ids
        logits, ids, gaps = run(model, prompt_ids, steps)
        stop = next((i for i, token in enumerate(ids) if token in stop_ids), None)
        return dict(prompt=text, prompt_ids=prompt_ids, greedy_ids=ids,
                    greedy_text=tokenizer.decode(ids, skip_special_tokens=False), top1_top2_gap=gaps, first_stop_index=stop), logits

    texts = texts or prompts(model, tokenizer, rng)
    cases = []
    for text in texts[0]:
        entry, logits = case(text, STEPS)
        cases.append(dict(entry, last_prompt_logits=[round(float(x), 5) for x in logits]))
        print(name, len(entry["prompt_ids"]), "tokens, smallest gap", min(entry["top1_top2_gap"]), repr(entry["greedy_text"][:60]))
    short = [case(text, SHORT_STEPS)[0] for text in texts[1]]
    meta = dict(model=name, arithmetic=f"numpy float64 on the {arithmetic} weights", bos=model.config["bos_token_id"],
                stop_ids=stop_ids, made_by="tools/tiny_checkpoint/goldens.py")
    with open(os.path.join(data, f"{name}-golden.json"), "w") as file:
        file.write('{"meta":' + json.dumps(meta))
        for key, entries in (("cases", cases), ("short", short)):
            file.write(f',\n"{key}":[\n' + ",\n".join(json.dumps(e, separators=(",", ":")) for e in entries) + "]")
        file.write("}\n")
    return texts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="tests/data")
    flags = parser.parse_args()
    texts = write_goldens(flags.data, "tiny", "float32")
    write_goldens(flags.data, "tiny-bf16", "bfloat16", texts)


if __name__ == "__main__":
    main()
