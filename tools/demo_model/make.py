"""Makes launch/demo_model: tokenizer, training, files in Hugging Face layout.

    python3 tools/demo_model/make.py [--output launch/demo_model] [--phase 0] [--threads 1]
"""
import argparse
import json
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import demo_text
import evaluate
from data import FIRST, FOUND, NAME, NEAR, Source
from model import Net, attention_bias

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
CONFIG = dict(
    architectures=["LlamaForCausalLM"], attention_bias=False, head_dim=64, hidden_act="silu", hidden_size=128,
    initializer_range=0.02, intermediate_size=256, max_position_embeddings=65536, mlp_bias=False, model_type="llama",
    num_attention_heads=4, num_hidden_layers=3, num_key_value_heads=2, rms_norm_eps=1e-5, rope_scaling=None, rope_theta=1e10,
    tie_word_embeddings=True, torch_dtype="float32", use_cache=True)
# Phases of training; the optimizer begins anew in each. `steps` are done of `schedule`, over which the rate falls to 2 %.
# Curriculum: until this share of the schedule, rows and tokens of a batch, keys at most, reach of positions, dilution.
PHASES = (
    dict(steps=750, schedule=1800, rate=2e-3, lookalikes=0, curriculum=(
        (0.06, (36, 160, 4, 34000, 2)), (0.16, (32, 192, 6, 34000, 16)), (0.5, (28, 256, 7, 34000, 128)))),
    dict(steps=700, schedule=700, rate=1.2e-3, lookalikes=0.5, curriculum=((1.0, (16, 384, 8, 34000, 300)),)),
    dict(steps=200, schedule=200, rate=8e-4, lookalikes=0.5, chronicle=0.25, curriculum=((1.0, (16, 384, 8, 34000, 300)),)),
)


def make_tokenizer(folder):
    """Byte-level BPE, every digit a token of its own, every word of the language one token."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rng = np.random.default_rng(1)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=2048, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    texts = [" ".join(demo_text.filler_sentence(rng) for _ in range(3000))]
    texts += [demo_text.question(name) + demo_text.answer(name, "0") for name in [None] + demo_text.PLACES]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([BEGIN, END, PAD])
    begin = tokenizer.token_to_id(BEGIN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, begin)])
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    write_json(folder, "tokenizer_config.json", dict(
        add_bos_token=True, add_eos_token=False, bos_token=BEGIN, eos_token=END, pad_token=PAD,
        clean_up_tokenization_spaces=False, model_max_length=CONFIG["max_position_embeddings"],
        tokenizer_class="PreTrainedTokenizerFast"))
    end, pad = tokenizer.token_to_id(END), tokenizer.token_to_id(PAD)
    config = dict(CONFIG, vocab_size=tokenizer.get_vocab_size(), bos_token_id=begin, eos_token_id=end, pad_token_id=pad)
    write_json(folder, "config.json", config)
    write_json(folder, "generation_config.json", dict(bos_token_id=begin, eos_token_id=end, pad_token_id=pad))
    return tokenizer, config


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")


def save(net, folder):
    save_file({name: t.detach().contiguous() for name, t in net.tensors().items()}, os.path.join(folder, "model.safetensors"),
              {"format": "pt"})


def probe(net, tokenizer, tokens, prompts):
    """Right answers in percent, per task, with `prompts` at every tenth of depth."""
    shares = []
    for task in evaluate.TASKS:
        hits = [found for case in evaluate.cases(tokenizer, tokens, prompts, 1, task)
                for _, found in evaluate.finds(net, tokenizer, *case)]
        shares.append(f"{100 * np.mean(hits):.0f}")
    return f"{tokens}: {'/'.join(shares)} %"


def train(tokenizer, config, flags):
    torch.manual_seed(flags.seed)
    net = Net(config)
    print(f"torch {torch.__version__}, numpy {np.__version__}, seed {flags.seed}, threads {flags.threads},"
          f" {sum(t.numel() for t in net.parameters())} parameters", flush=True)
    for number, phase in enumerate(PHASES):
        if number < flags.phase:
            continue
        if number and number == flags.phase:
            net = evaluate.load(flags.output)
        print(f"phase {number}", flush=True)
        train_phase(net, tokenizer, Source(tokenizer, flags.seed + 1 + number, phase["lookalikes"], phase.get("chronicle", 0)), phase, flags.output)


def train_phase(net, tokenizer, source, phase, folder):
    optimizer = torch.optim.AdamW(net.parameters(), lr=0, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    began = time.time()
    for step in range(phase["steps"]):
        done = step / phase["schedule"]
        for group in optimizer.param_groups:
            group["lr"] = phase["rate"] * min(1, (step + 1) / 100) * (0.02 + 0.98 * (1 + np.cos(np.pi * done)) / 2)
        shape = next(shape for end, shape in phase["curriculum"] if done < end)
        ids, weights, positions, count = (torch.from_numpy(a) for a in source.batch(*shape))
        targets, weights = torch.roll(ids, -1, 1).flatten(), F.pad(weights[:, 1:], (0, 1)).flatten()
        wanted = torch.nonzero(weights)[:, 0]
        logits = net.logits(net(ids, positions, attention_bias(count, NEAR), wanted))
        targets, weights = targets[wanted], weights[wanted]
        loss = F.cross_entropy(logits, targets, reduction="none")
        mean = (loss * weights).sum() / weights.sum()
        optimizer.zero_grad()
        mean.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == phase["steps"] - 1:
            hit, first = logits.argmax(-1) == targets, weights == FOUND * FIRST
            found, name = first | (weights == FOUND), weights == NAME
            print(f"step {step} {shape} text {loss[~found].mean().item():.3f} digits {loss[found].mean().item():.3f}"
                  f" right {hit[found].float().mean().item():.3f} first {hit[first].float().mean().item():.3f}"
                  f" name {hit[name].float().mean().item():.3f} {time.time() - began:.0f} s", flush=True)
        if (step + 1) % 250 == 0:
            probes = [(1024, 2)] + [(8192, 1)] * ((step + 1) % 500 == 0)
            print("  exact " + ", ".join(probe(net, tokenizer, *p) for p in probes), flush=True)
            save(net, folder)
    save(net, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="launch/demo_model")
    parser.add_argument("--phase", type=int, default=0, help="begin with this one, from the weights in --output")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    os.makedirs(flags.output, exist_ok=True)
    tokenizer, config = make_tokenizer(flags.output)
    train(tokenizer, config, flags)


if __name__ == "__main__":
    main()
