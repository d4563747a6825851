"""Exact answers of the demo model by length and depth.

    python3 tools/demo_model/evaluate.py [--model DIR] [--tokens 1024 8192] [--prompts 100] [--threads 1]
    python3 tools/demo_model/evaluate.py --transformers ...            # the same by Hugging Face transformers, generated
    python3 tools/demo_model/evaluate.py --write requests.jsonl ...    # the same prompts as input of `lombard generate`
    python3 tools/demo_model/evaluate.py --score requests.jsonl answers.jsonl [other_answers.jsonl ...]

Two tasks. "pass key": one unnamed key in a text, `--prompts` texts for every tenth of depth. "named keys": ten named keys in
a text, one in each tenth of its depth, all asked, each in a prompt of its own; `--prompts` texts. An answer is right when it
is " The key of the cellar is 48213." and the end. Without --transformers, the text is read once for its questions, the right
answer is appended to a question and the model must find each of its tokens most likely: the same as generating it greedily.
`--score` also compares the token ids of several outputs.
"""
import argparse
import json
import os
import time

import numpy as np
import torch
from tokenizers import Tokenizer

import demo_text
from model import Net

TASKS = ("pass key", "named keys")
TENTHS = 10


def cases(tokenizer, tokens, prompts, seed, task, first=0):
    """(text, [(tenth, question, answer)]), `prompts` for every tenth of depth. The same arguments give the same cases."""
    length = lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    named = task == "named keys"
    for i in range(first, first + prompts):
        for group in [range(TENTHS)] if named else [[tenth] for tenth in range(TENTHS)]:
            rng = np.random.default_rng([seed, tokens, named, i, group[0]])
            names = rng.permutation(demo_text.PLACES)[:TENTHS] if named else [None]
            text, keys = demo_text.document(rng, length, tokens, names, [(tenth + rng.random()) / TENTHS for tenth in group])
            yield text, [(tenth, demo_text.question(name), demo_text.answer(name, key))
                         for tenth, name, key in zip(group, names, keys)]


def finds(net, tokenizer, text, asked):
    """(tenth, whether the answer is found) of each question."""
    begin, end = (tokenizer.token_to_id(f"<|{name}|>") for name in ("begin", "end"))
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    _, past = net.read([begin] + encode(text))
    for tenth, question, answer in asked:
        question, answer = encode(question), encode(answer) + [end]
        logits, _ = net.read(question + answer[:-1], past)
        yield tenth, logits[-len(answer):].argmax(-1).tolist() == answer


class Transformers:
    """Greedy generation by Hugging Face transformers."""

    def __init__(self, folder):
        import transformers
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder)

    @torch.no_grad()
    def answer(self, prompt):
        ids = self.tokenizer(prompt, return_tensors="pt")["input_ids"]
        out = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
        return out[0, ids.shape[1]:].tolist()


def load(folder):
    from safetensors.torch import load_file
    net = Net(json.load(open(os.path.join(folder, "config.json"))))
    tensors = load_file(os.path.join(folder, "model.safetensors"))
    with torch.no_grad():
        for name, weight in net.tensors().items():
            weight.copy_(tensors[name])
    return net


def row(tokens, task, hits, asked):
    print(f"| {tokens} | {task} | " + " | ".join(f"{h:.0f}" for h in hits) + f" | {hits.sum():.0f} of {asked.sum():.0f} |",
          end="", flush=True)


def evaluate(flags):
    tokenizer = Tokenizer.from_file(os.path.join(flags.model, "tokenizer.json"))
    out = open(flags.write, "w") if flags.write else None
    if not out:
        peer = Transformers(flags.model) if flags.transformers else load(flags.model)
    answers = open(flags.answers, "w") if flags.answers else None
    for tokens in flags.tokens:
        for task in flags.tasks:
            began, hits, asked = time.time(), np.zeros(TENTHS), np.zeros(TENTHS)
            for text, questions in cases(tokenizer, tokens, flags.prompts, flags.seed, task, flags.first):
                if not out and not flags.transformers:
                    for tenth, found in finds(peer, tokenizer, text, questions):
                        hits[tenth], asked[tenth] = hits[tenth] + found, asked[tenth] + 1
                    continue
                for tenth, question, answer in questions:
                    name = f"{tokens}/{task}/{tenth}/{flags.first + asked[tenth]:.0f}"
                    asked[tenth] += 1
                    if out:
                        out.write(json.dumps(dict(id=name, prompt=text + question, max_tokens=16, answer=answer)) + "\n")
                    else:
                        ids = peer.answer(text + question)
                        found = tokenizer.decode(ids)
                        hits[tenth] += found == answer
                        if answers:
                            answers.write(json.dumps(dict(id=name, text=found, token_ids=ids)) + "\n")
            if not out:
                row(tokens, task, hits, asked)
                print(f" {time.time() - began:.0f} s", flush=True)


def score(requests, outputs):
    requests = [json.loads(line) for line in open(requests)]
    outputs = [{line["id"]: line for line in map(json.loads, open(path))} for path in outputs]
    for output in outputs:
        table = {}
        for request in requests:
            tokens, task, tenth, _ = request["id"].split("/")
            hits, asked = table.setdefault((tokens, task), (np.zeros(TENTHS), np.zeros(TENTHS)))
            asked[int(tenth)] += 1
            hits[int(tenth)] += output[request["id"]].get("text") == request["answer"]
        for (tokens, task), (hits, asked) in table.items():
            row(tokens, task, hits, asked)
            print()
    for other in outputs[1:]:
        same = sum(other[r["id"]].get("token_ids") == outputs[0][r["id"]].get("token_ids") for r in requests)
        print(f"the same token ids in {same} of {len(requests)} answers")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="launch/demo_model")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 8192])
    parser.add_argument("--prompts", type=int, default=100, help="for each task, length and tenth of depth")
    parser.add_argument("--first", type=int, default=0, help="number of the first of them: parts of a table, to be added")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--transformers", action="store_true")
    parser.add_argument("--answers", help="with --transformers: a file for what was generated")
    parser.add_argument("--write", metavar="FILE")
    parser.add_argument("--score", nargs="+", metavar="FILE")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    if flags.score:
        score(flags.score[0], flags.score[1:])
    else:
        evaluate(flags)


if __name__ == "__main__":
    main()
