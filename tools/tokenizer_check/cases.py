"""Small tokenizer.json documents, each about one feature, and texts that are hard for them.

The vocabularies are made here by the plainest BPE training there is, so that the documents depend on nothing else.
"""
import collections
import json
import random

CORPUS = (
    "the quick brown fox jumps over the lazy dog. It's what we've done, isn't it? 12 345 6789 10 times; "
    "the weather there was the other thing that they thought about. We don't know; they'll see. "
    "über naïve café déjà vu, été. the the the and and and in in on on of of to to is is  double  spaces   here\n\n"
)

TEXTS = [
    "", " ", "  ", "\n", "\t", "a", "the quick brown fox", " the  quick   brown\tfox ", "Hello, World!", "it's we've DON'T I'LL",
    "3.14159 1,234 ½ ² Ⅷ ① ٣٤ 12345678", "\r\n line\r\n\r\n end \n", "snake_case CamelCase kebab-case", "über café naïve ÜBER",
    "e\u0301te\u0301 A\u030a \u212b \ufb01n \u1e9b\u0323", "각 \u1100\u1161\u11a8 한국어", "日本語のテキスト、中文。", "😀👩‍👩‍👧 🏳️‍🌈",
    "İstanbul ǅ ß ẞ ſ ΑΣ", "a\u00a0b\u2003c\u3000d\u0085e\u2028f\u200bg\u202fh", "▁under▁ ▁▁score", "<s> hello</s>", "x<s>y <tag>z",
    "<s><s> <tag>   next", "word<tag>word <tag> word", "  <lstrip>  <rstrip>  <both>  .", "wordword word  words sword", "<NORM> <norm> Norm",
    "!?.,;: «quoted» “curly” — dash … ¿qué? $5 + 3 = 8 ^ ` |", "<0x41> <0xE4> <0xZZ>", "\x00\x01\x7f", "the" * 40, " " * 90, "ab" * 60 + " end",
    "नमस्ते दुनिया", "مرحبا بالعالم", "שלום\u0591", "\u24b6\u24d0 \u2160 \u203f a\u0300b", "unk\u2603unk\u2603\u2603 \u2603 \u2603", "\ud55c\ud7a3\ufffd\uffff\U0010ffff",
]

# Fragments that random texts are made of.
FRAGMENTS = list(" \n\t\r.,'!-_0123456789abestuvxyzABZ<>|▁Ġé½²٣日本한😀") + [
    "  ", "   ", "the", " the", "'s", "'ll", "'S", "\r\n", "\n\n", "e\u0301", "\u0301", "\u200d", "\u00a0", "\u3000", "\u0085", "\u200b", "ﬁ", "Å",
    "İ", "ſ", "<s>", "</s>", "<tag>", "word", "<lstrip>", "<rstrip>", "<both>", "norm", "\u2603", "\U0001d54f", "\u1100", "\u1161", "\u0e01\u0e33",
    "12", "345", "«", "—", "\x00", "ab", "\u0345", "ß", "<0x41>",
]


def random_texts(count, seed):
    rng = random.Random(seed)
    return ["".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(1, 40))) for _ in range(count)]


def byte_characters():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table, extra = {}, 256
    for byte in range(256):
        if byte in printable:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(extra)
            extra += 1
    return table


def train(words, alphabet, merge_count):
    vocab = {character: index for index, character in enumerate(alphabet)}
    merges = []
    words = collections.Counter(tuple(word) for word in words)
    for _ in range(merge_count):
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(list(best))
        vocab.setdefault("".join(best), len(vocab))
        merged = collections.Counter()
        for word, count in words.items():
            out, i = [], 0
            while i < len(word):
                if word[i : i + 2] == best:
                    out.append("".join(best))
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            merged[tuple(out)] += count
        words = merged
    return vocab, merges


def bpe(vocab, merges, **options):
    model = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=False,
                 byte_fallback=False, ignore_merges=False)
    model.update(options)
    model["vocab"] = vocab
    model["merges"] = merges
    return model


def models():
    table = byte_characters()
    mapped = "".join(table[b] for b in CORPUS.encode())
    words = [("Ġ" if i else "") + word for i, word in enumerate(mapped.split("Ġ"))]
    byte_vocab, byte_merges = train(words, [table[b] for b in range(256)], 90)
    spelled = "▁" + CORPUS.replace(" ", "▁")
    words = ["▁" + word for word in spelled.split("▁") if word]
    alphabet = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + sorted(set(spelled))
    piece_vocab, piece_merges = train(words, alphabet, 90)
    for spaces in ("▁▁", "▁▁▁▁"):
        half = spaces[: len(spaces) // 2]
        piece_vocab[spaces] = len(piece_vocab)
        piece_merges.append([half, half])
    plain_vocab, plain_merges = train(CORPUS.split(" "), ["<unk>"] + sorted(set(CORPUS)), 60)
    some_bytes = {token: i for i, token in enumerate(t for t in piece_vocab if not (t.startswith("<0x") and t[3] in "0EF"))}
    return {
        "bytes": bpe(byte_vocab, byte_merges),
        "bytes, merges as strings, ignored": bpe(byte_vocab, [" ".join(pair) for pair in byte_merges], ignore_merges=True),
        "bytes, no merges": bpe({table[b]: b for b in range(256)}, []),
        "pieces": bpe(piece_vocab, piece_merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True),
        "pieces, some bytes missing": bpe(some_bytes, piece_merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True),
        "plain, fused unk": bpe(plain_vocab, plain_merges, unk_token="<unk>", fuse_unk=True),
        "plain, unk": bpe(plain_vocab, plain_merges, unk_token="<unk>"),
        "plain, no unk": bpe(plain_vocab, plain_merges),
    }


def added(content, **flags):
    token = dict(id=None, content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    token.update(flags)
    return token


def number(tokens, vocab):
    """The tokens with their ids. The reference numbers those outside the vocabulary in order, whatever a file says."""
    ids = dict(vocab)
    return [dict(token, id=ids.setdefault(token["content"], len(ids))) for token in tokens]


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES_ONLY = dict(BYTE_LEVEL, use_regex=False)
GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
PIECE_NORMALIZER = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
PIECE_DECODER = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                                                  {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}


def template(before, behind):
    parts = [{"SpecialToken": {"id": name, "type_id": 0}} for name in before] + [{"Sequence": {"id": "A", "type_id": 0}}]
    parts += [{"SpecialToken": {"id": name, "type_id": 0}} for name in behind]
    ids = {"<s>": 1, "</s>": 2}
    special = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in before + behind}
    return {"type": "TemplateProcessing", "single": parts, "pair": parts + [{"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": special}


def split(pattern, behavior, invert=False, regex=True):
    return {"type": "Split", "pattern": {"Regex" if regex else "String": pattern}, "behavior": behavior, "invert": invert}


def documents():
    """name -> (name of the model, the document without it)."""
    out, known = {}, models()

    def add(name, model, **parts):
        tokens = number(parts.pop("added_tokens", []), known[model]["vocab"])
        document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": None, "pre_tokenizer": None,
                    "post_processor": None, "decoder": None}
        document.update(parts)
        out[name] = (model, document)

    byte = dict(pre_tokenizer=BYTE_LEVEL, decoder=BYTE_LEVEL)
    piece = dict(normalizer=PIECE_NORMALIZER, decoder=PIECE_DECODER)
    add("byte-level", "bytes", **byte)
    add("byte-level without merges", "bytes, no merges", **byte)
    add("byte-level, ignore_merges", "bytes, merges as strings, ignored", **byte)
    add("byte-level, prefix space", "bytes", pre_tokenizer=dict(BYTE_LEVEL, add_prefix_space=True), decoder=BYTE_LEVEL)
    add("byte-level, no regex", "bytes", pre_tokenizer=BYTES_ONLY, decoder=BYTE_LEVEL)
    add("byte-level normalizer", "bytes", normalizer={"type": "ByteLevel"}, decoder=BYTE_LEVEL)
    for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            for pattern in (r"\s+", r"\p{N}|[a-e]"):
                add(f"split {pattern} {behavior} {invert}", "bytes", decoder=BYTE_LEVEL,
                    pre_tokenizer={"type": "Sequence", "pretokenizers": [split(pattern, behavior, invert), BYTES_ONLY]})
    sequences = {
        "split GPT-4": [split(GPT4, "Isolated"), BYTES_ONLY],
        "split string": [split("th", "MergedWithNext", regex=False), BYTES_ONLY],
        "split empty matches": [split("x*", "Isolated"), BYTES_ONLY],
        "split line borders": [split("^.|.$", "Isolated"), BYTES_ONLY],
        "split lookaround": [split(r"(?<=[a-z])(?=[A-Z0-9])|(?<!\d)\d{3}", "Isolated"), BYTES_ONLY],
        "split digits first": [split(r"\p{N}{1,3}", "Isolated"), split(r"[一-龥぀-ヿ]+", "Isolated"), BYTE_LEVEL],
        "digits": [{"type": "Digits", "individual_digits": False}, BYTE_LEVEL],
        "individual digits": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
        "falcon": [{"type": "Punctuation", "behavior": "Contiguous"}, BYTE_LEVEL, {"type": "Digits", "individual_digits": False},
                   split("[0-9][0-9][0-9]", "Isolated")],
        "punctuation": [{"type": "Punctuation", "behavior": "Isolated"}, BYTES_ONLY],
        "punctuation removed": [{"type": "Punctuation", "behavior": "Removed"}, BYTES_ONLY],
        "whitespace": [{"type": "Whitespace"}, BYTES_ONLY],
        "whitespace split": [{"type": "WhitespaceSplit"}, BYTES_ONLY],
        "char delimiter": [{"type": "CharDelimiterSplit", "delimiter": "e"}, BYTES_ONLY],
    }
    for name, steps in sequences.items():
        add(name, "bytes", pre_tokenizer={"type": "Sequence", "pretokenizers": steps}, decoder=BYTE_LEVEL)
    normalizers = {
        "NFC": {"type": "NFC"}, "NFD": {"type": "NFD"}, "NFKC": {"type": "NFKC"}, "NFKD": {"type": "NFKD"}, "lowercase": {"type": "Lowercase"},
        "strip": {"type": "Strip", "strip_left": True, "strip_right": True}, "strip left": {"type": "Strip", "strip_left": True, "strip_right": False},
        "strip accents": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]},
        "replace regex": {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[,.]"}, "content": "_"},
        "replace to nothing": {"type": "Replace", "pattern": {"String": "the"}, "content": ""},
        "nested": {"type": "Sequence", "normalizers": [PIECE_NORMALIZER, {"type": "Lowercase"}]},
    }
    for name, normalizer in normalizers.items():
        add("normalizer " + name, "bytes", normalizer=normalizer, **byte)
    add("pieces", "pieces", **piece)
    add("pieces, some bytes missing", "pieces, some bytes missing", **piece)
    add("pieces, no prefix", "pieces", normalizer=PIECE_NORMALIZER["normalizers"][1],
        decoder={"type": "Sequence", "decoders": PIECE_DECODER["decoders"][:3]})
    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}
            add(f"metaspace {scheme} {cut}", "pieces", pre_tokenizer=metaspace, decoder=metaspace,
                added_tokens=[added("<s>", special=True), added("<tag>")])
    add("metaspace after split", "pieces", decoder=PIECE_DECODER, pre_tokenizer={
        "type": "Sequence", "pretokenizers": [split(r"\d", "Isolated"), {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}]})
    for model in ("plain, fused unk", "plain, unk", "plain, no unk"):
        add(model, model)
        add(model + ", words", model, pre_tokenizer={"type": "WhitespaceSplit"})
    tokens = [added("<s>", special=True), added("</s>", special=True), added("<tag>"), added("<lstrip>", lstrip=True),
              added("<rstrip>", rstrip=True), added("<both>", lstrip=True, rstrip=True, special=True), added("word", single_word=True),
              added("norm", normalized=True), added("  "), added("   "), added("日本", normalized=True)]
    add("added tokens, pieces", "pieces", added_tokens=tokens, post_processor=template(["<s>"], []), **piece)
    add("added tokens, bytes", "bytes", added_tokens=tokens[2:], **byte)
    add("added tokens, lowercase", "bytes", added_tokens=tokens[2:], normalizer={"type": "Lowercase"}, **byte)
    add("added tokens, NFKC", "bytes", added_tokens=tokens[2:] + [added("ﬁ", normalized=True), added("Å")], normalizer={"type": "NFKC"}, **byte)
    add("template", "pieces", added_tokens=tokens[:2], post_processor=template(["<s>"], ["</s>"]), **piece)
    add("template in sequence", "pieces", added_tokens=tokens[:2], **piece, post_processor={
        "type": "Sequence", "processors": [dict(BYTE_LEVEL), template([], ["</s>"]), template(["<s>"], ["</s>"])]})
    steps = PIECE_DECODER["decoders"]
    add("decoder strip of tokens", "pieces", normalizer=PIECE_NORMALIZER, decoder={"type": "Sequence", "decoders": [
        {"type": "Strip", "content": "▁", "start": 2, "stop": 0}, steps[1]]})
    add("decoder strip of the end", "pieces", normalizer=PIECE_NORMALIZER, decoder={"type": "Sequence", "decoders": [
        steps[0], steps[1], steps[2], {"type": "Strip", "content": " ", "start": 0, "stop": 1}]})
    add("decoder replace behind fuse", "pieces", normalizer=PIECE_NORMALIZER, decoder={"type": "Sequence", "decoders": [
        steps[1], steps[2], {"type": "Replace", "pattern": {"String": "▁t"}, "content": "[T]"}]})
    add("decoder replace by pattern", "pieces", normalizer=PIECE_NORMALIZER, decoder={"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"Regex": "[▁e]"}, "content": "-"}, steps[1]]})
    return out


def full_documents():
    known = models()
    return {name: json.dumps(dict(document, model=known[model]), ensure_ascii=False) for name, (model, document) in documents().items()}
