"""Writes tests/data/tokenizer_goldens.json: what the PyPI package `tokenizers` makes of cases.py. Run in the repository's root."""
import json

import tokenizers

import cases

TEXTS_MAX = 22  # Of each document, chosen in turn so that all texts are used; keeps the file small.


def main():
    texts = cases.TEXTS
    documents = []
    for number, (name, (model, document)) in enumerate(cases.documents().items()):
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(dict(document, model=cases.models()[model])))
        results = []
        for i in range(TEXTS_MAX):
            index = (number * 7 + i * 2 + i * 2 // len(texts)) % len(texts)
            ids = tokenizer.encode(texts[index], add_special_tokens=True).ids
            plain = tokenizer.encode(texts[index], add_special_tokens=False).ids
            result = {"text": index, "ids": ids}
            if plain != ids:
                result["plain"] = plain
            if ids:  # Some decoders of the reference panic without tokens.
                decoded, skipped = (tokenizer.decode(ids, skip_special_tokens=skip) for skip in (False, True))
                if decoded != texts[index]:
                    result["decoded"] = decoded
                if skipped != decoded:
                    result["skipped"] = skipped
            results.append(result)
        document = {key: value for key, value in document.items() if value}
        documents.append({"name": name, "model": model, "document": document, "results": results})
    dump = lambda value: json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    with open("tests/data/tokenizer_goldens.json", "w", encoding="ascii") as out:
        out.write('{"made_by":"tokenizers ' + tokenizers.__version__ + '",\n"texts":' + dump(texts) + ',\n"models":{\n')
        out.write(",\n".join(dump(name) + ":" + dump(model) for name, model in cases.models().items()))
        out.write('},\n"documents":[\n' + ",\n".join(dump(document) for document in documents) + "]}\n")


main()
