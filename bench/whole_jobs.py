#!/usr/bin/env python3
"""Evaluation jobs with and without shared prefixes: `lombard generate --prefix-cache on|off`, in turns.

    lombard model create --preset qwen2.5-0.5b --output /tmp/qwen        # its tokenizer.json may be replaced by a real one
    bench/whole_jobs.py --lombard build/release/lombard --model /tmp/qwen --eval DIR [--job gsm8k|mmlu] [--rounds N]

DIR holds gsm8k_cot_8shot_prefix.txt and gsm8k_test.jsonl (200 questions behind 8 examples) and mmlu_cot_prompts.json
(57 subjects of 5 examples each, and 4 generated questions behind each). The lines are shuffled: nothing tells
`generate` what shares what. Prints the seconds of each run, in how many answers the token ids are those of the first run,
and for the others how far apart the first run's two best logprobs were where an answer first differs (the largest).
"""
import argparse, json, pathlib, random, subprocess, tempfile, time


def gsm8k(folder, rng):
    examples = (folder / "gsm8k_cot_8shot_prefix.txt").read_text()
    lines = (folder / "gsm8k_test.jsonl").read_text().splitlines()[:200]
    return [f"{examples}Q: {json.loads(line)['question']}\nA:" for line in lines]


def mmlu(folder, rng):
    prompts = []
    for subject, examples in json.loads((folder / "mmlu_cot_prompts.json").read_text()).items():
        for _ in range(4):
            a, b = rng.randrange(10, 100), rng.randrange(10, 100)
            choices = rng.sample(range(10, 200), 3) + [a + b]
            rng.shuffle(choices)
            listed = " ".join(f"({name}) {value}" for name, value in zip("ABCD", choices))
            name = subject.replace("_", " ")
            prompts.append(f"{examples}Q: Of {a} questions about {name} in one book and {b} in another, none is in "
                           f"both. How many are there?\n{listed}\nA: Let's think step by step.")
    return prompts


def gap_where_they_differ(first, second):
    """Of two answers: the first one's two best logprobs apart at the first different token; None: the same."""
    for t, (a, b) in enumerate(zip(first["token_ids"], second["token_ids"])):
        if a != b:
            best = sorted(first["logprobs"]["top_logprobs"][t].values(), reverse=True)
            return best[0] - best[1]
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lombard", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--eval", required=True, type=pathlib.Path)
    parser.add_argument("--job", choices=["gsm8k", "mmlu"], default="gsm8k")
    parser.add_argument("--limit", type=int, help="only so many prompts")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--kv-tokens", type=int, default=131072)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()

    rng = random.Random(1)
    prompts = {"gsm8k": gsm8k, "mmlu": mmlu}[args.job](args.eval, rng)
    rng.shuffle(prompts)
    prompts = prompts[: args.limit]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "in.jsonl").write_text("".join(
            json.dumps({"id": i, "prompt": prompt, "max_tokens": args.max_tokens, "ignore_eos": True,
                        "logprobs": 2}) + "\n"
            for i, prompt in enumerate(prompts)))
        first = None
        for _ in range(args.rounds):
            for cache in ["on", "off"]:
                begin = time.monotonic()
                subprocess.run([args.lombard, "generate", "--model", args.model, "--input", folder / "in.jsonl",
                                "--output", folder / "out.jsonl", "--kv-tokens", str(args.kv_tokens),
                                "--prefix-cache", cache, "--report", folder / "report"], check=True,
                               stderr=subprocess.DEVNULL)
                seconds = time.monotonic() - begin
                answers = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
                failed = sum("error" in answer for answer in answers)
                first = first or answers
                gaps = [gap_where_they_differ(a, b) for a, b in zip(first, answers) if "error" not in {**a, **b}]
                differ = [gap for gap in gaps if gap is not None]
                prompt_tokens = sum(answer["usage"]["prompt_tokens"] for answer in answers if "usage" in answer)
                print(f"{args.job}: prefix cache {cache}: {seconds:.1f} s, {len(answers)} answers ({failed} failed) to "
                      f"{prompt_tokens} prompt tokens; token ids as in the first run: {len(gaps) - len(differ)}"
                      + (f"; largest gap where others differ: {max(differ):.4f}" if differ else ""), flush=True)


if __name__ == "__main__":
    main()
