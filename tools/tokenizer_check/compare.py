"""Compares tokenizer_lines with the PyPI package `tokenizers`, id for id and text for text.

  python3 tools/tokenizer_check/compare.py build/dev/bin/tokenizer_lines [--random N] [--seed S] [tokenizer.json ... --texts FILE ...]

Without files: the small documents of cases.py on its texts and N random ones. With files: each on each text, whole and by line.
"""
import argparse
import json
import subprocess
import sys
import tempfile

import tokenizers

import cases


def reference(tokenizer, text):
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    special = tokenizer.encode(text, add_special_tokens=True).ids
    out = {"ids": plain, "ids_special": special}
    for key, skip in (("text", False), ("text_skipped", True)):
        try:
            out[key] = tokenizer.decode(special, skip_special_tokens=skip)
        except BaseException as error:  # Some decoders panic on empty texts.
            if "Panic" not in type(error).__name__:
                raise
            out[key] = None
    return out


def compare(binary, path, name, texts):
    tokenizer = tokenizers.Tokenizer.from_file(path)
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    done = subprocess.run([binary, path], input=lines.encode(), stdout=subprocess.PIPE, check=True)
    results = [json.loads(line) for line in done.stdout.split(b"\n")[:-1]]
    wrong = 0
    for text, result in zip(texts, results, strict=True):
        expected = {key: result[key] if value is None else value for key, value in reference(tokenizer, text).items()}
        stream = result.pop("stream")
        if stream != result["text"]:
            expected["text"] += "  [stream: " + stream + "]"
        if result == expected:
            continue
        wrong += 1
        if wrong <= 3:
            print(f"{name}: {text[:200]!r}")
            for key in expected:
                if result[key] != expected[key]:
                    print(f"  {key}\n    expected {str(expected[key])[:300]!r}\n    found    {str(result[key])[:300]!r}")
    print(f"{name}: {len(texts)} texts, {wrong} differ", flush=True)
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("tokenizers", nargs="*")
    parser.add_argument("--texts", nargs="*", default=[])
    parser.add_argument("--random", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    wrong = 0
    if args.tokenizers:
        for path in args.tokenizers:
            for file in args.texts:
                text = open(file, encoding="utf-8", newline="").read()
                wrong += compare(args.binary, path, f"{path} on {file}", [text] + text.split("\n")[:5000])
            wrong += compare(args.binary, path, f"{path} on {args.random} random texts", cases.TEXTS + cases.random_texts(args.random, args.seed))
    else:
        texts = [text for text in cases.TEXTS + cases.random_texts(args.random, args.seed)]
        for name, document in cases.full_documents().items():
            with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
                file.write(document)
                file.flush()
                wrong += compare(args.binary, file.name, name, texts)
    sys.exit(1 if wrong else 0)


main()
