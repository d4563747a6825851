"""Makes tests/data/tiny (float32) and tests/data/tiny-bf16 (the same rounded, in two shards): tokenizer, training, files.

    OMP_NUM_THREADS=1 python3 tools/tiny_checkpoint/make.py [--steps N] [--output tests/data]

Needs torch and tokenizers. Seeded; other torch versions or thread counts give weights that differ in the last digits and
drift from there, so goldens are made anew (goldens.py) whenever the weights are.
"""
import argparse
import json
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import ledger_text
from reference import to_bf16, write_safetensors

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
VOCAB = 552  # every word of the language is one token
CONFIG = dict(
    architectures=["LlamaForCausalLM"], attention_bias=False, bos_token_id=VOCAB - 3, eos_token_id=VOCAB - 2, head_dim=16,
    hidden_act="silu", hidden_size=64, initializer_range=0.02, intermediate_size=128, max_position_embeddings=4096,
    mlp_bias=False, model_type="llama", num_attention_heads=8, num_hidden_layers=3, num_key_value_heads=2,
    rms_norm_eps=1e-5, rope_scaling=None, rope_theta=10000.0, tie_word_embeddings=True, torch_dtype="float32", use_cache=True,
    vocab_size=VOCAB)
# The learning rate falls to 0 over so many steps; the checkpoint in the tree was taken at step 3250.
SCHEDULE_STEPS = 4000
# Until this share of the schedule: (rows, tokens) of a batch.
CURRICULUM = ((0.5, (32, 80)), (0.8, (6, 384)), (1.0, (2, 1664)))


def make_tokenizer(folder):
    """Byte-level BPE: ids 0-255 are bytes in some order, then merges, the three special tokens last."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rng = np.random.default_rng(1)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB - 3, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(("".join(ledger_text.document(rng, 150)) for _ in range(100)), trainer)
    tokenizer.add_special_tokens([BEGIN, END, PAD])
    assert tokenizer.token_to_id(BEGIN) == VOCAB - 3, tokenizer.get_vocab_size()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, VOCAB - 3)])
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    write_json(folder, "tokenizer_config.json", dict(
        add_bos_token=True, add_eos_token=False, bos_token=BEGIN, eos_token=END, pad_token=PAD,
        clean_up_tokenization_spaces=False, model_max_length=CONFIG["max_position_embeddings"],
        tokenizer_class="PreTrainedTokenizerFast"))
    write_json(folder, "special_tokens_map.json", dict(bos_token=BEGIN, eos_token=END, pad_token=PAD))
    return tokenizer


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")


def batch(tokenizer, rng, rows, tokens):
    """ids [rows, tokens + 1] and loss weights [rows, tokens]: documents end to end; what cannot be foretold weighs little."""
    ids, weights = np.zeros((rows, tokens + 1), np.int64), np.zeros((rows, tokens + 1), np.float32)
    for row in range(rows):
        filled = 0
        while filled <= tokens:
            left = tokens + 1 - filled
            lines = int(rng.integers(2, min(160, max(3, left // 14))))
            read, recited = (tokenizer.encode(part, add_special_tokens=False).ids for part in ledger_text.document(rng, lines))
            doc = [VOCAB - 3] + read + recited + [VOCAB - 2]
            weight = [0.05] * (1 + len(read)) + [1.0] * (len(recited) + 1)
            used = min(left, len(doc))
            ids[row, filled:filled + used] = doc[:used]
            weights[row, filled:filled + used] = weight[:used]
            filled += used
    return torch.from_numpy(ids), torch.from_numpy(weights[:, 1:])


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        c = CONFIG
        q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
        h, m = c["hidden_size"], c["intermediate_size"]
        shapes = {"model.embed_tokens.weight": (VOCAB, h), "model.norm.weight": (h,)}
        for i in range(c["num_hidden_layers"]):
            shapes.update({f"model.layers.{i}.{name}.weight": shape for name, shape in {
                "input_layernorm": (h,), "self_attn.q_proj": (q, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h),
                "self_attn.o_proj": (h, q), "post_attention_layernorm": (h,), "mlp.gate_proj": (m, h), "mlp.up_proj": (m, h),
                "mlp.down_proj": (h, m)}.items()})
        self.names = list(shapes)
        self.weights = torch.nn.ParameterList(
            torch.ones(s) if len(s) == 1 else torch.randn(s) * (0.05 if "embed" in n else s[1] ** -0.5)
            for n, s in shapes.items())

    def tensors(self):
        return dict(zip(self.names, self.weights))

    def forward(self, ids):
        c, t = CONFIG, self.tensors()
        d, tokens = c["head_dim"], ids.shape[1]
        angle = torch.arange(tokens)[:, None] * c["rope_theta"] ** (-torch.arange(0, d, 2) / d)
        cos, sin = angle.cos(), angle.sin()

        def rotate(x):
            a, b = x.chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        x = t["model.embed_tokens.weight"][ids]
        for i in range(c["num_hidden_layers"]):
            w = lambda name: t[f"model.layers.{i}.{name}.weight"]
            h = F.rms_norm(x, (c["hidden_size"],), w("input_layernorm"), c["rms_norm_eps"])
            q, k, v = ((h @ w(f"self_attn.{p}_proj").T).unflatten(-1, (-1, d)).transpose(1, 2) for p in "qkv")
            out = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True, enable_gqa=True)
            x = x + out.transpose(1, 2).flatten(2) @ w("self_attn.o_proj").T
            h = F.rms_norm(x, (c["hidden_size"],), w("post_attention_layernorm"), c["rms_norm_eps"])
            x = x + (F.silu(h @ w("mlp.gate_proj").T) * (h @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T
        return F.rms_norm(x, (c["hidden_size"],), t["model.norm.weight"], c["rms_norm_eps"]) @ t["model.embed_tokens.weight"].T


def train(tokenizer, steps):
    torch.manual_seed(1)
    rng = np.random.default_rng(2)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0, betas=(0.9, 0.98), weight_decay=0.01)
    began = time.time()
    for step in range(steps):
        done = step / SCHEDULE_STEPS
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, step / 100) * (1 - done)
        # Short documents teach the copying, longer and longer ones the precision that a long ledger needs.
        rows, tokens = next(shape for end, shape in CURRICULUM if done < end)
        ids, weights = batch(tokenizer, rng, rows, tokens)
        logits = net(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(weights.shape)
        mean = (loss * weights).sum() / weights.sum()
        optimizer.zero_grad()
        mean.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            known = weights == 1
            right = (logits.argmax(-1) == ids[:, 1:])[known].float().mean()
            print(f"step {step} loss {mean.item():.3f} recited {loss[known].mean().item():.3f} right {right.item():.3f}"
                  f" {time.time() - began:.0f} s", flush=True)
    return {name: t.detach().numpy() for name, t in net.tensors().items()}


def write_weights(plain, rounded, tensors):
    write_safetensors(os.path.join(plain, "model.safetensors"), tensors)
    # Two shards, cut inside layer 1 on purpose.
    items = [(name, to_bf16(t)) for name, t in tensors.items()]
    cut = next(i for i, (name, _) in enumerate(items) if name == "model.layers.1.self_attn.o_proj.weight")
    index = {"metadata": {"total_size": sum(t.nbytes for _, t in items)}, "weight_map": {}}
    for number, part in enumerate((items[:cut], items[cut:]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        write_safetensors(os.path.join(rounded, file), dict(part))
        index["weight_map"].update({name: file for name, _ in part})
    write_json(rounded, "model.safetensors.index.json", index)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3250)
    parser.add_argument("--output", default="tests/data")
    flags = parser.parse_args()
    plain, rounded = (os.path.join(flags.output, name) for name in ("tiny", "tiny-bf16"))
    for folder in (plain, rounded):
        os.makedirs(folder, exist_ok=True)
        tokenizer = make_tokenizer(folder)
        config = dict(CONFIG, torch_dtype="float32" if folder == plain else "bfloat16")
        write_json(folder, "config.json", config)
        write_json(folder, "generation_config.json", dict(bos_token_id=VOCAB - 3, eos_token_id=[VOCAB - 2, VOCAB - 1]))
    write_weights(plain, rounded, train(tokenizer, flags.steps))


if __name__ == "__main__":
    main()
