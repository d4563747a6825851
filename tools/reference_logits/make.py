"""Small random checkpoints of every supported architecture, and their logits by Hugging Face transformers.

    python3 tools/reference_logits/make.py [--output tests/data/architectures] [--only NAME]

Needs torch and transformers (made with 2.15 and 5.23). Each case becomes a directory with config.json, the weights in
float32 and reference.json: `prompt_ids`, `positions` and the `logits` [positions, vocab] there. The reference loads the
directory as it lies on disk, with eager attention and float64 products (transformers keeps norms, softmax and rotary
tables in float32), and `float32_difference` is how far plain float32 is from that, relative to the largest logit.

Weights are larger than a trained model's initialisation, so that attention is peaked and a wrong position, window, bias or
norm moves the logits far beyond the 1e-4 at which we compare; every case prints how far its own feature moves them.
"""
import argparse
import json
import os
import shutil

import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

transformers.logging.disable_progress_bar()

TOKENS, STRIDE = 100, 9
SMALL = dict(vocab_size=96, intermediate_size=48, max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)


def heads(query, kv, dim, hidden=32, layers=2):
    return dict(num_attention_heads=query, num_key_value_heads=kv, head_dim=dim, hidden_size=hidden, num_hidden_layers=layers)


def rope(kind, theta=10000.0, **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **more))


LLAMA3 = rope("llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
YARN = rope("yarn", 10000.0, factor=4.0, original_max_position_embeddings=64)
LINEAR = rope("linear", 10000.0, factor=4.0)
PLAIN = rope("default", 10000.0)

# name: (config class, fields, what to change to see whether the case's feature matters)
CASES = {
    "llama-gqa-d64": (LlamaConfig, heads(4, 2, 64) | PLAIN | dict(tie_word_embeddings=False), PLAIN | rope("default", 20000.0)),
    "llama-mha-d80-linear": (LlamaConfig, heads(2, 2, 80) | LINEAR | dict(tie_word_embeddings=False), PLAIN),
    "llama-mqa-d96-llama3-tied": (LlamaConfig, heads(3, 1, 96, hidden=36) | LLAMA3 | dict(tie_word_embeddings=True), rope("default", 500000.0)),
    "llama-gqa-d128-yarn": (LlamaConfig, heads(4, 2, 128, hidden=24) | YARN | dict(tie_word_embeddings=False), PLAIN),
    "llama-biases-d16": (LlamaConfig, heads(4, 2, 16) | PLAIN | dict(attention_bias=True, mlp_bias=True), dict(attention_bias=False)),
    "mistral-window-d32": (MistralConfig, heads(4, 2, 32, layers=3) | PLAIN | dict(sliding_window=24), dict(sliding_window=None)),
    "qwen2-tied-d64": (Qwen2Config, dict(heads(2, 1, 64, hidden=128, layers=1), intermediate_size=32) | rope("default", 1e6)
                       | dict(tie_word_embeddings=True), rope("default", 1e5)),
    "qwen2-window-d16": (Qwen2Config, heads(4, 2, 16, layers=3) | PLAIN
                         | dict(use_sliding_window=True, sliding_window=20, max_window_layers=1), dict(use_sliding_window=False)),
    "qwen3-gqa-d32": (Qwen3Config, heads(4, 2, 32) | rope("default", 1e6) | dict(tie_word_embeddings=False), rope("default", 1e5)),
    "qwen3-yarn-d64-tied": (Qwen3Config, heads(2, 1, 64) | YARN | dict(tie_word_embeddings=True), PLAIN),
}
SHARDED = "llama-mha-d80-linear"
# These are rewritten as older tools wrote them: rope_theta beside rope_scaling, `type`, torch_dtype, no layer_types.
OLD_FORM = {"llama-mqa-d96-llama3-tied": "rope_type", "llama-gqa-d128-yarn": "type", "llama-mha-d80-linear": "type",
            "qwen2-window-d16": "type", "qwen2-tied-d64": "type"}


def randomize(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=generator)
        with torch.no_grad():
            if name.endswith("bias"):
                p.copy_(0.5 * noise)
            elif p.dim() == 1:
                p.copy_(1 + 0.2 * noise)
            elif "embed" in name:
                p.copy_(noise)
            else:
                p.copy_(noise * (2.0 if "q_proj" in name or "k_proj" in name else 1.0) / p.shape[1] ** 0.5)


def to_old_form(path, type_key):
    config = json.load(open(path))
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    kind = parameters.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {type_key: kind, **parameters}
    config["torch_dtype"] = config.pop("dtype", "float32")
    config.pop("layer_types", None)
    if config["num_attention_heads"] * config.get("head_dim", 0) == config["hidden_size"]:
        del config["head_dim"]
    json.dump(config, open(path, "w"), indent=2, sort_keys=True)


def logits_of(folder, ids, dtype, changes=None):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **(changes or {})).to(dtype)
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].double()


def make(name, seed, output):
    config_class, fields, without = CASES[name]
    folder = os.path.join(output, name)
    shutil.rmtree(folder, ignore_errors=True)
    model = AutoModelForCausalLM.from_config(config_class(**(SMALL | fields)), dtype=torch.float32)
    randomize(model, seed)
    model.save_pretrained(folder, **(dict(max_shard_size="90KB") if name == SHARDED else {}))
    if name in OLD_FORM:
        to_old_form(os.path.join(folder, "config.json"), OLD_FORM[name])

    ids = torch.randint(3, SMALL["vocab_size"], (TOKENS,), generator=torch.Generator().manual_seed(seed + 1)).tolist()
    logits = logits_of(folder, ids, torch.float64)
    largest = logits.abs().max().item()
    relative = lambda other: (other - logits).abs().max().item() / largest
    float32 = relative(logits_of(folder, ids, torch.float32))
    positions = sorted({*range(0, TOKENS, STRIDE), TOKENS - 1})
    with open(os.path.join(folder, "reference.json"), "w") as file:
        json.dump(dict(prompt_ids=ids, positions=positions, max_abs_logit=round(largest, 6), float32_difference=float(f"{float32:.2g}"),
                       made_by="tools/reference_logits/make.py",
                       logits=[[round(x, 6) for x in logits[p].tolist()] for p in positions]), file, separators=(",", ":"))
        file.write("\n")
    without_feature = config_class(**(SMALL | fields | without))
    moved = relative(AutoModelForCausalLM.from_pretrained(folder, config=without_feature, dtype=torch.float32, attn_implementation="eager")
                     (torch.tensor([ids]), use_cache=False).logits[0].detach().double())
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    print(f"{name}: {size} bytes, largest logit {largest:.2f}, float32 differs by {float32:.1e}, without its feature by {moved:.1e}")
    assert float32 < 2e-5 and moved > 1e-2, name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="tests/data/architectures")
    parser.add_argument("--only", help="one case")
    flags = parser.parse_args()
    for seed, name in enumerate(CASES):
        if flags.only in (None, name):
            make(name, 100 * seed, flags.output)


if __name__ == "__main__":
    main()
