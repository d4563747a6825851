"""Decode steps of Hugging Face transformers with a static cache: the shape of Llama 3 8B, weights drawn at random."""
import time

import torch


def measure(device, dtype, batches, context, rounds, small):
    """Yields rows. A step's time is the difference between a long and a short answer, divided by their difference in tokens."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        return
    shape = dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
                 vocab_size=128256, rope_theta=500000.0)
    if small:
        shape.update(hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=512)
    config = LlamaConfig(max_position_embeddings=8192, pad_token_id=0, bos_token_id=1, eos_token_id=None, **shape)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = LlamaForCausalLM(config).eval()
    torch.set_default_dtype(before)
    short, long = (2, 6) if small else (8, 40)

    def answer(ids, tokens):
        start = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
                       cache_implementation="static")
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for batch in batches:
        torch.manual_seed(1)
        ids = torch.randint(2, shape["vocab_size"], (batch, context), device=device)
        with torch.inference_mode():
            answer(ids, long)  # compiles
            answer(ids, short)
            steps = sorted((answer(ids, long) - answer(ids, short)) / (long - short) for _ in range(rounds))
        yield {"name": f"model_decode/{batch}", "software": "transformers, static cache", "median_us": 1e6 * steps[len(steps) // 2]}
